"""What the tests of the bus share: recorders, and the shape of a good message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventbus import EventBusError

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
