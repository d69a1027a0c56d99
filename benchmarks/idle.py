"""Emissions while no handler is due: as many as there may be, it costs the same."""

from __future__ import annotations

from benchmarks.emission import bus_with, by_signal
from benchmarks.measure import Effort, interleaved_calls
from benchmarks.results import Row
from eventbus import every

__all__ = ["NOTE", "measure"]

NEVER = every(10**9)
FLAT = 1.1
COUNTS = (10, 1_000, 10_000)
NOTE = (
    "One emission to handlers whose filter on the clock is not due, over the same with 10 of them;"
    f" flat is at most {FLAT}."
)


def measure(effort: Effort) -> list[Row]:
    """Measure emissions to 10, 1,000 and 10,000 handlers that are not due."""
    counts = COUNTS if effort.scale >= 0.1 else (10, 100)
    emissions = {str(count): by_signal(bus_with(count, when=NEVER)) for count in counts}
    times = interleaved_calls(emissions, effort)
    return [
        Row("idle", f"{count:,} handlers not due", "eventbus", ratio, goal=FLAT)
        for count in counts[1:]
        for ratio in [times.ratio(str(count), "10")]
    ]
