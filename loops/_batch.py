"""The span of one optimizer step: from its first batch to `batch_finished` or `batch_skipped`."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from eventbus.loops._closing import Ending
from eventbus.loops._metrics import Means, Metrics, Value, settled
from eventbus.loops._nested import first_size
from eventbus.loops._report import Report

if TYPE_CHECKING:
    from eventbus.loops._spans import Spans

__all__ = ["BatchSpan"]

TOLD = ("outputs", "targets")
"""What `batch_finished` carries as it was reported."""


class Body(Report):
    """One passage through the body of a loop over batches: its batch, time, and what it reports."""

    __slots__ = ("batch", "began_s", "has_batch")

    def __init__(self, batch: Any = None, has_batch: bool = True) -> None:
        self.metrics = {}  # one is made for each batch: without a call of `super`
        self.fields = {}
        self.made = False
        self.batch = batch
        self.has_batch = has_batch
        self.began_s = perf_counter()

    @property
    def size(self) -> int:
        """The reported batch size, else dimension 0 of the first tensor in the batch, else 1."""
        reported = self.fields.get("batch_size") if self.fields else None
        size = first_size(self.batch) if reported is None else reported
        return 1 if size is None else size

    def told(self) -> dict[str, Any]:
        """Return what `batch_finished` says of the batch, where there was one."""
        reported, told = self.fields, {}
        if reported:
            told = {key: reported[key] for key in TOLD if reported.get(key) is not None}
        if self.has_batch and self.batch is not None:
            told["batch"] = self.batch
        return told


class BatchSpan:
    """One optimizer step under way, of one micro-batch or, when accumulating, several.

    Attributes
    ----------
    step : int
        Its number; a skipped step does not use it up.
    bodies : int
        Micro-batches that the loop was given.
    boundary : bool
        True on the last micro-batch, where the optimizer steps.
    has_stepped : bool
        An optimizer of the run has stepped in it.
    told_to_skip : bool
        The loop has seen a `SkipBatch` among the answers to what it emitted, or has said `run.skip`
        of the micro-batch under way.
    is_not_to_step : bool
        So it is, in a loop that is then expected to let no optimizer step.
    own_reason : str
        That of `run.skip`; empty where an answer has it.
    data_wait_s : float or None
        Host time that the loop waited for data; None in a loop that reads none.
    """

    __slots__ = (
        "_body",
        "_duration_s",
        "_last",
        "_means",
        "_size",
        "_spans",
        "_values",
        "_weight",
        "bodies",
        "boundary",
        "data_wait_s",
        "has_stepped",
        "is_not_to_step",
        "own_reason",
        "owner",
        "step",
        "told_to_skip",
    )

    def __init__(self, spans: Spans, owner: object) -> None:
        self._spans = spans
        self.owner = weakref.ref(owner)
        self.step = spans.counts.steps_done + 1
        self.bodies = 0
        self.boundary = True
        self.told_to_skip = self.is_not_to_step = False
        self.own_reason = ""
        self.has_stepped = False
        self.data_wait_s: float | None = None
        self._body: Body | None = None
        self._last: Body | None = None
        self._means: Means | None = None  # only from the second micro-batch on
        self._values: dict[str, Value] = {}
        self._weight = 0  # of those values
        self._size = 0
        self._duration_s = 0.0

    @property
    def is_left(self) -> bool:
        """True once the loop over batches is gone: Python dropped it at `break` or `return`."""
        return self.owner() is None

    @property
    def is_ready(self) -> bool:
        """True if the step may be called finished although its body has not ended."""
        return self.boundary and not self.told_to_skip and self._was_reported

    @property
    def _was_reported(self) -> bool:
        return self._last is not None and self._last.made

    def enter(self, body: Body, boundary: bool) -> None:
        """Give the loop one more micro-batch."""
        self.bodies += 1
        self.boundary = boundary
        if self.told_to_skip:
            self.told_to_skip = self.is_not_to_step = False
            self.own_reason = ""
        self._body = self._last = body

    def tell_to_skip(self, own_reason: str = "") -> None:
        """The loop leaves out the micro-batch under way: an answer's doing, or its own."""
        self.told_to_skip = self.is_not_to_step = True
        self.own_reason = self.own_reason or own_reason

    def exclude(self, seconds: float) -> None:
        """Leave host time that was not spent on the step out of its duration."""
        if self._last is not None:
            self._last.began_s += seconds

    def record(self, values: Mapping[str, Any]) -> None:
        """Keep what the body reports."""
        epoch = self._spans.epoch
        taken = epoch.taken if epoch is not None else ()
        if self._last is None:  # a handler of `batch_started` that has the Run
            self._last = Body()
        self._last.add(values, self, taken)

    def __str__(self) -> str:
        return f"this batch (step {self.step})"

    def leave(self) -> None:
        """The body came to its end: the step is over at a boundary, else goes on."""
        if not self.boundary:
            self._fold()
        elif self.bodies and not self.told_to_skip:
            self._finish()
        else:
            self.close(Ending.COMPLETED)

    def close(self, ending: Ending, reason: str = "") -> None:
        """End the step: finished if its body ran to the end or reported, else skipped."""
        done = self.boundary and self.bodies > 0 and not self.told_to_skip
        if done and (ending is Ending.COMPLETED or self._was_reported):
            self._finish()
        else:
            will_be_redone = ending is Ending.FAILED and not self.told_to_skip
            self.skip(reason or self._why_skipped(), will_be_redone)

    def skip(self, reason: str, will_be_redone: bool = False) -> None:
        """End the step without having taken it.

        Its data is used up nevertheless, unless a resumed run is to do it again: because the step
        failed, or a `Stop` came before it.
        """
        spans = self._spans
        pending = spans.pending()
        is_for_stop = pending.stop is not None and pending.skip is None and not self.told_to_skip
        if not (will_be_redone or is_for_stop):
            spans.place.end_step(spans.counts.batch_index)
        spans.batch = None
        epoch = spans.counts.epoch
        spans.emitter.emit("batch_skipped", epoch=epoch, step=self.step, reason=reason)

    def _finish(self) -> None:
        spans, counts = self._spans, self._spans.counts
        self._fold()
        spans.batch = None
        spans.generators_before = None
        counts.steps_done = self.step
        spans.place.end_step(counts.batch_index)
        values = self._values if self._means is None else self._means
        if spans.epoch is not None:
            self._count_in(spans.epoch.means)
        spans.last.update(values)
        spans.emitter.emit_fields("batch_finished", self._fields(values))

    def _fold(self) -> None:
        """Take what the body reported into the step."""
        body, self._body = self._body, None
        if body is None:
            return
        self._duration_s += perf_counter() - body.began_s
        if self.told_to_skip:
            return
        size = body.size
        self._size += size
        if self._values:
            self._add_up(body.metrics, size)
        else:
            self._values, self._weight = body.metrics, size  # of one micro-batch: their own mean

    def _add_up(self, values: dict[str, Value], size: int) -> None:
        if self._means is None:
            self._means = Means()
            self._means.add(self._values, self._weight)
        self._means.add(values, size)

    def _count_in(self, means: Means) -> None:
        if self._means is None:
            means.add(self._values, self._weight)
        else:
            means.merge(self._means)

    def _fields(self, values: Mapping[str, Any]) -> dict[str, Any]:
        fields = {} if self._last is None else self._last.told()
        fields["epoch"] = self._spans.counts.epoch
        fields["step"] = self.step
        fields["metrics"] = Metrics(values)
        fields["batch_size"] = self._size
        fields["duration_s"] = self._duration_s
        if "loss" in values:
            loss = values["loss"]
            fields["loss"] = loss if self._means is None else settled(loss)
        if self.data_wait_s is not None:
            fields["data_wait_s"] = self.data_wait_s
        return fields

    def _why_skipped(self) -> str:
        skip, cut = self._spans.pending().skip, self._spans.cut()
        if self.own_reason:
            return self.own_reason
        if skip is not None and self.told_to_skip:
            return skip.reason
        if cut is not None:
            return cut.reason
        if not self.boundary:
            return "the loop ended within the micro-batches of the step"
        return "the loop was left before anything was reported"
