"""The loop over steps, for training without epochs; an iterator object, as that over epochs is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from eventbus.loops._batch import Body
from eventbus.loops._pass import Pass

if TYPE_CHECKING:
    from eventbus.loops._spans import Spans

__all__ = ["Steps"]


class Steps(Pass, Iterator[int]):
    """The numbers of the steps that are still to be done; made by `run.steps`."""

    def __init__(self, spans: Spans, steps: int) -> None:
        super().__init__(spans)
        self._steps = steps

    def __next__(self) -> int:
        spans = self._spans
        spans.start(steps=self._steps)
        spans.end_body_of_steps(self, "run.steps()")
        if self._is_new:
            self._look()
        if not self._has_begun:
            self._begin()
            spans.place.done.meet_training()
            spans.place.draws.begin_steps(are_done=spans.counts.steps_done >= self._steps)
            self._check_whether_done()
        while self._goes_on():
            span = spans.open_batch(self)
            if self._announce(span, None, spans.emitter.pending.answered):
                span.enter(Body(has_batch=False), boundary=True)
                return span.step
        raise StopIteration

    def _check_whether_done(self) -> None:
        counts = self._spans.counts
        if counts.steps_done >= self._steps:
            done, before = counts.steps_done, counts.steps_before
            self._spans.hints.all_done("steps", self._steps, done, before)

    def _goes_on(self) -> bool:
        done = self._spans.counts.steps_done >= self._steps
        if not self._is_over and (done or self._spans.cut()):
            self._end(done)
            if done or self._spans.pending().stop is None:
                self._spans.place.draws.end_loop()
        return not self._is_over

    def __len__(self) -> int:
        return max(0, self._steps - self._spans.counts.steps_done)
