"""What a loop over batches and one over steps share: the epoch knows if they ended early."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from eventbus.loops._generators import RandomGenerators

if TYPE_CHECKING:
    from eventbus.answers import Request
    from eventbus.loops._batch import BatchSpan
    from eventbus.loops._epoch import EpochSpan
    from eventbus.loops._spans import Spans

__all__ = ["Pass"]

FIRST = 2
"""After each of so many steps of a pass it is looked whether a model is frozen in turns."""

FEW = 32
"""So many steps of a loop without epochs tell what it does, and what it does not do."""

_GENERATORS = RandomGenerators()


class Pass:
    """One loop over batches or steps; of these a Run has one at a time."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._epoch: EpochSpan | None = None
        self._has_begun = self._is_over = False
        self._is_new = False
        self._steps_before = 0
        spans.watch(self)

    @property
    def is_under_way(self) -> bool:
        """True from its first batch or step to its end, in the epoch in which it began."""
        return not self._is_over and self._epoch is self._spans.epoch

    def _begin(self) -> None:
        spans = self._spans
        self._check_only_one()
        self._has_begun = self._is_new = True
        self._steps_before = spans.counts.steps_done
        spans.note_thread()
        spans.schedules.leave_body()
        self._epoch = spans.epoch
        spans.passing = weakref.ref(self)
        if spans.epoch is not None:
            spans.epoch.open_passes.append(weakref.ref(self))

    def _look(self) -> None:
        """A body is over: look at what the first steps did; at each it would cost too much."""
        spans = self._spans
        steps = spans.counts.steps_done - self._steps_before
        self._is_new = steps < (FEW if spans.epoch is None else FIRST)
        if 0 < steps <= FIRST:
            spans.frozen.look()
            spans.hints.frozen()
        elif not self._is_new and spans.epoch is None:
            spans.hints.no_backward()

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
            if self._spans.counts.steps_done > self._steps_before:
                self._spans.frozen.look()
            self._spans.schedules.go_back()
            if not done:
                self._keep_generators()

    def _keep_generators(self) -> None:
        """Keep them where a `Stop` cuts the pass: the code after it is gone through again."""
        spans = self._spans
        if spans.generators_before is None and spans.pending().stop is not None:
            spans.generators_before = _GENERATORS.state_dict()

    def _announce(self, span: BatchSpan, late: Request | None, answered: int) -> bool:
        """Tell that a step begins, unless an answer is against it; say whether its body may run.

        A `Stop` from elsewhere that came since the batch began to load is not against it: what
        loading has drawn from the random generators would be drawn a second time where the run
        goes on.

        Parameters
        ----------
        late, answered
            What would have cut the loop when the batch was there, and how often handlers had
            answered.
        """
        spans = self._spans
        heeded = spans.heeded
        if not heeded.quiet and self._is_refused(span, late, answered):
            return False
        spans.emitter.emit("batch_started", epoch=spans.counts.epoch, step=span.step)
        return heeded.quiet or not self._is_refused(span, late, answered)

    def _is_refused(self, span: BatchSpan, late: Request | None, answered: int) -> bool:
        spans = self._spans
        answer: Request | None = spans.pending().skip
        if answer is None and spans.emitter.pending.answered > answered:
            cut = spans.cut()
            answer = None if cut is late else cut
        if answer is not None:
            span.skip(answer.reason)
        return answer is not None
