"""What the tests of the bus share: recorders, and the shape of a good message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventbus import Emitter, EventBus, EventBusError, Priority, every, handles

MISTAKE = (EventBusError, TypeError, ValueError)
"""A misuse is one of these; never a bare assertion, KeyError or AttributeError."""


class Recorder:
    """Handlers made here note their name in `calls`, in the order they were called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def handler(self, name: str, answer: object = None) -> Callable[[], Any]:
        """A handler that notes `name` and returns `answer`."""

        def noting() -> object:
            self.calls.append(name)
            return answer

        noting.__name__ = noting.__qualname__ = name
        return noting

    def failing(self, name: str, error: BaseException) -> Callable[[], Any]:
        """A handler that notes `name` and raises `error`."""

        def failing() -> object:
            self.calls.append(name)
            raise error

        failing.__name__ = failing.__qualname__ = name
        return failing


class StepCollector:
    """A handler object that keeps the steps it was told."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, step: int) -> None:
        self.steps.append(step)


def notes_of(error: BaseException) -> str:
    """All notes of an exception, joined."""
    return "\n".join(getattr(error, "__notes__", []))


def assert_says(error: BaseException, *words: str) -> None:
    """The message is one line and holds each of the words."""
    message = str(error)
    assert "\n" not in message, message
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


def answer_to(bus: EventBus, signal: str, answer: object) -> None:
    bus.once(signal)(lambda: answer)


def raising(error: BaseException) -> Callable[[], None]:
    def broken() -> None:
        raise error

    return broken


def finish(loop: Emitter, step: int = 1) -> Any:
    return loop.emit("batch_finished", epoch=1, step=step)


class Counter:
    """A handler in the usual shape."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @handles("epoch_started")
    def begin(self, epoch: int) -> None:
        self.calls.append(f"begin {epoch}")

    @handles("epoch_finished", when=every(2), priority=Priority.REPORT)
    def end(self, epoch: int) -> None:
        self.calls.append(f"end {epoch}")

    def unmarked(self) -> None:
        self.calls.append("unmarked")


def run_epochs(loop: Emitter, last: int = 2) -> None:
    for epoch in range(1, last + 1):
        loop.emit("epoch_started", epoch=epoch, step=0)
        loop.emit("epoch_finished", epoch=epoch, step=0)
