"""What an emission costs, as a ratio to the same calls written by hand, measured in one run.

Each round times all cases in turn, so a machine that slows down slows all of them; of the rounds
the median is taken, of the repeats within a round the least. Times say little, the ratios do.
Run it with: python benchmarks/dispatch.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import timeit
from collections.abc import Callable
from typing import Any, NamedTuple

from eventbus import EventBus, every
from eventbus.signals import batch_finished

LOSS = 0.5
Handlers = list[Callable[[int, float], None]]


class Row(NamedTuple):
    """One line of the table: a case, what it is held against, and the goal for the ratio."""

    name: str
    case: str
    base: str
    goal: float | None


ROWS = [
    Row("nobody listens, over a bare call", "nobody", "bare call", 2.0),
    Row("nobody listens, by name, over a bare call", "nobody by name", "bare call", 5.0),
    Row("10 handlers, over a loop of the calls", "10", "10 by hand", 1.0),
    Row("10 handlers, by name, over a loop of the calls", "10 by name", "10 by hand", 1.5),
    Row("100 handlers, over a loop of the calls", "100", "100 by hand", 1.0),
    Row("100 due once in 100, over the ifs", "100 idle", "100 idle by hand", 0.1),
    Row("1,000 not due, over 10 not due", "1,000 not due", "10 not due", None),
    Row("10,000 not due, over 10 not due", "10,000 not due", "10 not due", None),
    Row(
        "10 handlers that take event, over a loop of the calls", "10 with event", "10 by hand", None
    ),
]


def handlers(number: int) -> Handlers:
    """Make functions that share no code object, as handlers of different modules do not."""
    return [eval("lambda step, loss: None") for _ in range(number)]


def bus_with(number: int, when: Any = None) -> EventBus:
    """Return a bus with so many handlers on `batch_finished`."""
    bus = EventBus()
    for handler in handlers(number):
        bus.on(batch_finished, when=when)(handler)
    return bus


def emitting(bus: EventBus, steps: Callable[[], int]) -> Callable[[], object]:
    """Return a call that emits by the signal."""
    signal = bus.signal(batch_finished)
    return lambda: signal.emit(epoch=1, step=steps(), loss=LOSS)


def emitting_by_name(bus: EventBus) -> Callable[[], object]:
    """Return a call that emits by name."""
    return lambda: bus.emit("batch_finished", epoch=1, step=7, loss=LOSS)


def by_hand(number: int) -> Callable[[], object]:
    """Return the loop that one would write."""
    listeners = handlers(number)

    def loop() -> None:
        for listener in listeners:
            listener(7, LOSS)

    return loop


def idle_by_hand(number: int, steps: Callable[[], int]) -> Callable[[], object]:
    """Return the loop with an `if` for each handler."""
    listeners = handlers(number)

    def loop() -> None:
        step = steps()
        for listener in listeners:
            if step % 100 == 0:
                listener(step, LOSS)

    return loop


def counting() -> Callable[[], int]:
    """Return steps that go on."""
    step = 0

    def next_step() -> int:
        nonlocal step
        step += 1
        return step

    return next_step


def seventh() -> int:
    """Return a step at which nobody that waits for the hundredth is due."""
    return 7


def with_event(number: int) -> EventBus:
    """Return a bus whose handlers take all of the event."""
    bus = EventBus()
    for _ in range(number):
        bus.on(batch_finished)(eval("lambda event: None"))
    return bus


def bare_call(epoch: int, step: int, loss: float) -> None:
    """Do nothing."""


def cases() -> dict[str, Callable[[], object]]:
    """Make what is timed."""
    return {
        "bare call": lambda: bare_call(epoch=1, step=seventh(), loss=LOSS),
        "nobody": emitting(EventBus(), seventh),
        "nobody by name": emitting_by_name(EventBus()),
        "10 by hand": by_hand(10),
        "10": emitting(bus_with(10), seventh),
        "10 by name": emitting_by_name(bus_with(10)),
        "10 with event": emitting(with_event(10), seventh),
        "100 by hand": by_hand(100),
        "100": emitting(bus_with(100), seventh),
        "100 idle by hand": idle_by_hand(100, counting()),
        "100 idle": emitting(bus_with(100, every(100)), counting()),
        "10 not due": emitting(bus_with(10, every(100)), seventh),
        "1,000 not due": emitting(bus_with(1_000, every(100)), seventh),
        "10,000 not due": emitting(bus_with(10_000, every(100)), seventh),
    }


def measure(rounds: int) -> dict[str, float]:
    """Return nanoseconds a call, the median over the rounds."""
    timers = {name: timeit.Timer(case) for name, case in cases().items()}
    for timer in timers.values():
        timer.timeit(400)  # settle: handlers that stay the same are compiled
    times: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(min(timer.repeat(3, 1000)) * 1e6)
    return {name: statistics.median(each) for name, each in times.items()}


def table(times: dict[str, float]) -> str:
    """Word the ratios."""
    lines = [f"{'':54} {'ratio':>6} {'goal':>5}"]
    for row in ROWS:
        ratio = times[row.case] / times[row.base]
        goal = "" if row.goal is None else f"{row.goal:.1f}"
        lines.append(f"{row.name:54} {ratio:6.2f} {goal:>5}  {times[row.case]:8.0f} ns")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {options.rounds} rounds")
    print(table(measure(options.rounds)))


if __name__ == "__main__":
    main()
