"""What the tests of loops share: a transcript of all signals, and handlers that answer on cue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eventbus import EventBus
from eventbus.event import Event

TOLD = ("complete", "reason", "outcome")
"""Fields that belong to how a span ended; a transcript shows them."""


class Transcript:
    """Writes each signal of the loop as `name epoch.step` and how the span ended, where it says so.

    Without `stop_requested`, which is the bus's own.
    """

    def __init__(self, bus: EventBus) -> None:
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        bus.on("*", priority=10_000, name="transcript")(self.write)

    def write(self, event: Event) -> None:
        if event.name != "stop_requested":
            self.events.append((event.name, dict(event.fields)))

    @property
    def lines(self) -> list[str]:
        return [_line(name, fields) for name, fields in self.events]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def of(self, name: str) -> list[Mapping[str, Any]]:
        """Return the fields of every emission of one signal."""
        return [fields for each, fields in self.events if each == name]

    def after(self, name: str, nth: int = 1) -> list[str]:
        """Return the lines from the nth emission of a signal on."""
        places = [place for place, each in enumerate(self.names) if each == name]
        return self.lines[places[nth - 1] :]


def _line(name: str, fields: Mapping[str, Any]) -> str:
    place = f" {fields['epoch']}.{fields['step']}" if "epoch" in fields else ""
    told = [str(fields[key]) for key in TOLD if key in fields]
    return f"{name}{place}" + (f" ({', '.join(told)})" if told else "")


def answer_on(bus: EventBus, signal: str, answer: object, **place: int) -> None:
    """Give an answer on each emission of a signal whose fields are as `place` says."""

    def answering(event: Event) -> object:
        is_due = all(event.fields[key] == value for key, value in place.items())
        return answer if is_due else None

    bus.on(signal, name="answering")(answering)


def fail_on(bus: EventBus, signal: str, error: BaseException, **place: int) -> None:
    """Raise on each emission of a signal whose fields are as `place` says."""

    def failing(event: Event) -> None:
        if all(event.fields[key] == value for key, value in place.items()):
            raise error

    bus.on(signal, name="failing")(failing)


def caught(kind: type[BaseException], call: Callable[[], object]) -> BaseException:
    """Return what a call raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")
