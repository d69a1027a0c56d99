"""Times that can be compared: taken in turns, in one process, the least of a few in each round.

A machine that others use is now fast, now slow. So all that is compared runs within each round, one
after the other, and a ratio is taken within a round; what is reported is the median over rounds.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Effort", "Times", "interleaved", "interleaved_calls", "undisturbed"]

LongCall = Callable[[], object]
Repeated = Callable[[int], object]
"""Does the thing that is measured so many times."""


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    rounds, repeats : int
        The median over rounds is taken of the least of so many repeats.
    slice_s : float
        A short call is repeated until it takes about so long, in seconds.
    scale : float
        What long cases do is multiplied by this: 1 is what the goals speak of.
    """

    rounds: int = 15
    repeats: int = 3
    slice_s: float = 0.005
    scale: float = 1.0


FULL = Effort()
QUICK = Effort(rounds=5, repeats=2, slice_s=0.003, scale=0.1)
TINY = Effort(rounds=1, repeats=1, slice_s=0.0, scale=0.001)
EFFORTS = {"full": FULL, "quick": QUICK, "tiny": TINY}


class Times:
    """Seconds by name, one for each round."""

    def __init__(self, seconds: Mapping[str, list[float]]) -> None:
        self.seconds = seconds

    def ratio(self, name: str, over: str) -> float:
        """Return the median of the ratios within the rounds."""
        pairs = zip(self.seconds[name], self.seconds[over], strict=True)
        return statistics.median(mine / base for mine, base in pairs)

    def median(self, name: str) -> float:
        """Return the median, in seconds."""
        return statistics.median(self.seconds[name])


def interleaved(calls: Mapping[str, LongCall], rounds: int, repeats: int = 1) -> Times:
    """Time calls that take long enough to be timed one by one."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for round_ in range(rounds):
        first = round_ % len(names)  # nobody always comes after the same neighbour
        for name in names[first:] + names[:first]:
            seconds[name].append(min(_timed(calls[name]) for _ in range(repeats)))
    return Times(seconds)


def interleaved_calls(calls: Mapping[str, Repeated], effort: Effort) -> Times:
    """Time short calls, each repeated until it fills a slice; seconds are for one call."""
    counts = {name: _count(call, effort.slice_s) for name, call in calls.items()}
    slices = {name: _slice(call, counts[name]) for name, call in calls.items()}
    with undisturbed():
        times = interleaved(slices, effort.rounds, effort.repeats)
    return Times({name: [s / counts[name] for s in times.seconds[name]] for name in calls})


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector out, as `timeit` does."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _timed(call: LongCall) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _slice(call: Repeated, count: int) -> LongCall:
    return lambda: call(count)


def _count(call: Repeated, slice_s: float) -> int:
    call(64)  # warm: plans are made, code is specialised
    count = 64
    while count < 2**24:
        seconds = min(_timed(_slice(call, count)) for _ in range(2))
        if seconds >= slice_s / 2:
            return max(1, round(count * slice_s / seconds)) if slice_s else count
        count *= 2
    return count
