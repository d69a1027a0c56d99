"""The clocks at which none of a plan's filtered handlers is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventbus.due import Filter
    from eventbus.plan import PlannedCall

__all__ = ["Windows"]

NEVER = (1, 0)
"""A window that no clock is in."""

TRIAL = 64
"""After so many windows it is known whether they are worth their cost."""


class Windows:
    """Finds the windows of a compiled function, which keeps one at a time.

    A window is an immutable pair `(first, end)`: a clock in `range(first, end)` needs no look.

    Parameters
    ----------
    planned
        The handlers with filters.
    """

    def __init__(self, planned: list[PlannedCall]) -> None:
        self._filters = _distinct(planned)
        self._made = 0
        self._spared = 0.0

    def after(self, clock: int) -> tuple[int, float]:
        """Return the window that begins at `clock`, or after it where one may be due at it."""
        if self._made > TRIAL and self._spared < self._made * len(self._filters):
            # Many distinct periods: to look for the next one costs more than it spares.
            return NEVER
        first, end = clock, self._next(clock - 1)
        if end <= clock:
            first, end = clock + 1, self._next(clock)
        self._made += 1
        self._spared += min(end - first, 1000)
        return first, end

    def _next(self, clock: int) -> float:
        return min(each.next_due(clock) for each in self._filters)


def _distinct(planned: list[PlannedCall]) -> list[Filter]:
    filters: dict[str, Filter] = {}
    for each in planned:
        assert each.receiver is not None
        when = each.receiver.subscription.when
        assert when is not None
        # Two that are written alike have the same bounds; predicates have none of their own.
        filters.setdefault(repr(when), when)
    return list(filters.values())
