"""What one emission costs, over the same calls written by hand; and what it costs others.

Handlers do nothing, so all that is measured is the way to them. The loop around the calls is part
of both sides of a ratio, as it is part of a training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from benchmarks.by_hand import handlers_taking, loop_over, loop_over_due, noop, written_ifs
from benchmarks.measure import Effort, interleaved_calls
from benchmarks.results import Row
from benchmarks.rivals import Rival
from eventbus import EventBus, every
from eventbus.signals import batch_finished

__all__ = ["NOTE", "bus_with", "by_name", "by_signal", "measure"]

SECTION = "dispatch"
NOTE = (
    "One emission of `batch_finished` with `epoch`, `step` and `loss`, to handlers that take `step`"
    " and `loss` and do nothing, through `bus.signal(batch_finished).emit(...)` unless said"
    " otherwise. With nobody: over calling a function that does nothing, with the same keywords."
    " With handlers: over `for handler in handlers: handler(step, loss)`. With `every(100)`: over"
    " that loop with `if step % 100 == 0:` before the call; a hundred such lines written out are"
    " about a fifth faster than that loop, and the ratio to them is told besides."
)

Emissions = Callable[[int], None]
"""Emits so many times, with steps that count up from 1."""

WAYS = {
    "signal": "",
    "idle": "",
    "name": ", `bus.emit(name, ...)`",
    "bound": ", `loop.emit(name, ...)` of a bound run",
    "event": ", which take `event`",
    "fields": ", which take `**fields`",
    "undeclared": ", of an undeclared signal",
}
"""How eventbus was asked, and how it is told in the table."""

GOALS = {
    ("signal", 0): 2.0,
    ("signal", 10): 1.0,
    ("signal", 100): 1.0,
    ("idle", 100): 0.1,
    ("name", 0): 5.0,
    ("name", 10): 1.5,
}


def measure(effort: Effort, rivals: Iterable[Rival]) -> list[Row]:
    """Measure all cases of dispatch, ours and others'."""
    others = [rival for rival in rivals if rival.dispatch is not None]
    return [
        *_case("no handler", {**_ours(0), **_theirs(others, 0)}, noop, effort, 0),
        *_handlers(10, others, effort),
        *_handlers(100, others, effort),
        *_idle(others, effort),
    ]


def _handlers(count: int, others: list[Rival], effort: Effort) -> list[Row]:
    base = partial(loop_over, handlers_taking("step, loss", count))
    emissions = {**_ours(count), **_theirs(others, count)}
    return _case(f"{count} handlers", emissions, base, effort, count)


def _idle(others: list[Rival], effort: Effort) -> list[Row]:
    case, handlers = "100 handlers every(100)", handlers_taking("step, loss", 100)
    emissions = {"idle": by_signal(bus_with(100, when=every(100)))}
    base = partial(loop_over_due, handlers, 100)
    return [
        *_case(case, {**emissions, **_theirs(others, 100, 100)}, base, effort, 100),
        *_case(f"{case}, over lines", emissions, written_ifs(handlers, 100), effort, None),
    ]


def _case(
    case: str,
    emissions: Mapping[str, Emissions],
    base: Emissions,
    effort: Effort,
    count: int | None,
) -> list[Row]:
    times = interleaved_calls({"base": base, **emissions}, effort)
    return [_row(name, case, count, times.ratio(name, "base")) for name in emissions]


def _row(name: str, case: str, count: int | None, ratio: float) -> Row:
    if name not in WAYS:
        return Row(SECTION, case, name, ratio)
    goal = None if count is None else GOALS.get((name, count))
    return Row(SECTION, case + WAYS[name], "eventbus", ratio, goal=goal)


def _ours(count: int) -> dict[str, Emissions]:
    ways: dict[str, Emissions] = {
        "signal": by_signal(bus_with(count)),
        "name": by_name(bus_with(count), "batch_finished"),
        "bound": by_name(bus_with(count).bind(sender="train"), "batch_finished"),
        "undeclared": by_name(bus_with(count, signal="layer_pruned"), "layer_pruned"),
    }
    if count:
        ways["event"] = by_signal(bus_with(count, wants="event"))
        ways["fields"] = by_signal(bus_with(count, wants="**fields"))
    return ways


def _theirs(others: list[Rival], count: int, every_: int | None = None) -> dict[str, Emissions]:
    found = {rival.name: rival.emissions(count, every_) for rival in others}
    return {name: emissions for name, emissions in found.items() if emissions is not None}


def bus_with(
    count: int, *, wants: str = "step, loss", signal: str = "batch_finished", when: Any = None
) -> EventBus:
    """Return a bus with so many handlers, each a function of its own."""
    bus = EventBus()
    for handler in handlers_taking(wants, count):
        bus.on(signal, when=when)(handler)
    return bus


def by_signal(bus: EventBus) -> Emissions:
    """Emit by the typed path for hot loops."""
    signal = bus.signal(batch_finished)

    def emissions(count: int) -> None:
        for step in range(1, count + 1):
            signal.emit(epoch=1, step=step, loss=0.5)

    return emissions


def by_name(emitter: Any, name: str) -> Emissions:
    """Emit by name, on the bus or on a run's emitter."""

    def emissions(count: int) -> None:
        for step in range(1, count + 1):
            emitter.emit(name, epoch=1, step=step, loss=0.5)

    return emissions
