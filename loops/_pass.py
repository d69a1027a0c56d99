"""What a loop over batches and one over steps share: the epoch knows if they ended early."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventbus.loops._epoch import EpochSpan
    from eventbus.loops._spans import Spans

__all__ = ["Pass"]


class Pass:
    """One loop over batches or steps; of these a Run has one at a time."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._epoch: EpochSpan | None = None
        self._has_begun = self._is_over = False
        spans.watch(self)

    @property
    def is_under_way(self) -> bool:
        """True from its first batch or step to its end, in the epoch in which it began."""
        return not self._is_over and self._epoch is self._spans.epoch

    def _begin(self) -> None:
        spans = self._spans
        self._check_only_one()
        self._has_begun = True
        spans.schedules.leave_body()
        self._epoch = spans.epoch
        spans.passing = weakref.ref(self)
        if spans.epoch is not None:
            spans.epoch.open_passes.append(weakref.ref(self))

    def _check_only_one(self) -> None:
        """Refuse two passes at a time: a checkpoint keeps the place in one."""
        other = self._spans.passing()
        if other is None or not other.is_under_way:
            return
        raise RuntimeError(
            "a second run.batches() or run.steps() while one is open: take the other data as it "
            "is, `for one, two in zip(run.batches(a), b)`, or end the first (`break`, and `del` "
            "the variable that holds it, if one does)"
        )

    def _end(self, done: bool) -> None:
        self._is_over = True
        if self._spans.ranks is not None:
            self._spans.ranks.settle()
        epoch = self._spans.epoch
        if epoch is not None:
            epoch.open_passes = [one for one in epoch.open_passes if one() is not self]
            if not done:
                epoch.note_undone()
        if self._has_begun:
            self._spans.schedules.go_back()
