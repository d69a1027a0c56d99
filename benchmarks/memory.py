"""Whether memory stays flat over many emissions and many subscriptions."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from benchmarks.emission import bus_with, by_name, by_signal
from benchmarks.measure import Effort
from benchmarks.results import Row
from eventbus import EventBus

__all__ = ["NOTE", "measure"]

EMISSIONS = 10_000_000
SUBSCRIPTIONS = 100_000
FLAT_KIB = 64.0
NOTE = (
    "What is allocated more after the work than after a thousandth of it, in KiB by `tracemalloc`"
    " and, where the system tells, in the memory that the process takes (RSS, MiB). Flat is at most"
    f" {FLAT_KIB:.0f} KiB, for allocations of the interpreter itself, and 8 MiB."
)


def measure(effort: Effort) -> list[Row]:
    """Measure growth, in KiB, over emissions and over subscribing and detaching."""
    emissions = max(1000, int(EMISSIONS * effort.scale))
    subscriptions = max(1000, int(SUBSCRIPTIONS * effort.scale))
    return [
        *_growth(f"{emissions:,} emissions to 10 handlers", by_signal(bus_with(10)), emissions),
        *_growth(f"{emissions:,} emissions by name", by_name(bus_with(1), NAME), emissions),
        *_growth(f"{subscriptions:,} times subscribe, emit, detach", _churn(), subscriptions),
    ]


NAME = "batch_finished"


def _churn() -> Callable[[int], None]:
    bus = EventBus()
    signal = bus.signal(NAME)

    def churn(count: int) -> None:
        for step in range(1, count + 1):
            subscription = bus.attach(_handler_of(step))
            signal.emit(epoch=1, step=step)
            subscription.detach()

    return churn


def _handler_of(step: int) -> object:
    from eventbus import handles

    @handles(NAME, name=f"handler {step}")
    def handler(step: int) -> None:
        pass

    return handler


def _growth(case: str, work: Callable[[int], None], count: int) -> list[Row]:
    """Return how much more is held after `work(count)`; traced on a tenth, as tracing is slow."""
    work(max(64, count // 1000))
    resident = _resident_mib()
    work(count)
    grown = _resident_mib() - resident
    rows = [Row("memory", case, "eventbus", _traced(work, count // 10), "KiB", FLAT_KIB)]
    if resident:
        rows.append(Row("memory", f"{case}, RSS", "eventbus", max(0.0, grown), "MiB", 8.0))
    return rows


def _traced(work: Callable[[int], None], count: int) -> float:
    tracemalloc.start()
    try:
        work(max(64, count // 100))
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        work(count)
        gc.collect()
        return max(0.0, (tracemalloc.get_traced_memory()[0] - before) / 1024)
    finally:
        tracemalloc.stop()


def _resident_mib() -> float:
    """Return the memory that the process takes; 0 where the system does not tell."""
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * 4096 / 2**20
