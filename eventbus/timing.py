"""Calls and time of each handler, while `bus.profile()` is on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from eventbus.bus import EventBus
    from eventbus.event import Event
    from eventbus.subscription import Receiver, Subscription

__all__ = ["HandlerTime", "Profile"]


class HandlerTime:
    """What one handler cost on one signal.

    Attributes
    ----------
    handler, signal : str
    calls : int
        How often it was due and called.
    duration_s : float
        Host time in the handler, filters included; CUDA work that it started is not waited for.

    Examples
    --------
    >>> from eventbus.timing import HandlerTime
    >>> HandlerTime("log_loss", "batch_finished", calls=2, duration_s=0.5).mean_s
    0.25
    """

    def __init__(self, handler: str, signal: str, calls: int = 0, duration_s: float = 0.0) -> None:
        self.handler, self.signal = handler, signal
        self.calls, self.duration_s = calls, duration_s

    def __repr__(self) -> str:
        return (
            f"<HandlerTime {self.handler!r} on {self.signal}: {self.calls} calls, "
            f"{self.duration_s:.6f} s>"
        )

    @property
    def mean_s(self) -> float:
        """Seconds a call; 0 before the first."""
        return self.duration_s / self.calls if self.calls else 0.0


class Profile:
    """Measures each handler until it is stopped; made by `bus.profile`.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def report(epoch): pass
    >>> with bus.profile() as profile:
    ...     _ = bus.emit("epoch_finished", epoch=1, step=10)
    >>> [(row.handler, row.signal, row.calls) for row in profile.rows]
    [('report', 'epoch_finished', 1)]
    >>> print(profile)  # doctest: +SKIP
    total ms  each ms  calls  handler  signal
       0.003    0.003      1  report   epoch_finished
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._around = bus.timing  # goes on beside this one, and after it
        self._is_over = False
        self._rows: dict[tuple[Subscription, str], HandlerTime] = {}

    @property
    def rows(self) -> list[HandlerTime]:
        """One for each handler and signal, the costliest first."""
        return sorted(self._rows.values(), key=lambda row: -row.duration_s)

    def __str__(self) -> str:
        """Return the rows as a table, the costliest first; those that took no time are left out."""
        rows = [row for row in self.rows if row.duration_s]
        if not rows:
            return "no handler was called"
        table = [("total ms", "each ms", "calls", "handler", "signal"), *map(_cells, rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join(_line(cells, widths) for cells in table)

    def __repr__(self) -> str:
        total_s = sum(row.duration_s for row in self.rows)
        return f"<Profile: {total_s:.6f} s in {sum(row.calls for row in self.rows)} calls>"

    def row(self, subscription: Subscription, signal: str) -> HandlerTime | None:
        """Return one row, or None where the handler was not called."""
        return self._rows.get((subscription, signal))

    def stop(self) -> None:
        """Measure no more; the rows stay. One that was begun before goes on."""
        self._is_over = True
        while self._bus.timing is not None and self._bus.timing._is_over:
            self._bus.timing = self._bus.timing._around
        self._bus.registry.changed()

    def wrap(self, receiver: Receiver) -> Callable[[Event], Any]:
        """Return a measured `receiver.take`."""
        take = receiver.take if self._around is None else self._around.wrap(receiver)
        if self._is_over:
            return take
        subscription, signal, clock = receiver.subscription, receiver.signal.name, time.perf_counter
        fresh = HandlerTime(subscription.label, signal)
        row = self._rows.setdefault((subscription, signal), fresh)

        def timed(event: Event) -> Any:
            calls, start = receiver.calls, clock()
            try:
                return take(event)
            finally:
                row.duration_s += clock() - start
                row.calls += receiver.calls - calls

        return timed

    def __enter__(self) -> Profile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _cells(row: HandlerTime) -> tuple[str, ...]:
    times = f"{1000 * row.duration_s:.3f}", f"{1000 * row.mean_s:.3f}"
    return (*times, str(row.calls), row.handler, row.signal)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    """Put numbers below each other by their ends, names by their beginnings."""
    padded = list(zip(cells, widths, strict=True))
    numbers = [text.rjust(width) for text, width in padded[:3]]
    names = [text.ljust(width) for text, width in padded[3:]]
    return "  ".join(numbers + names).rstrip()
