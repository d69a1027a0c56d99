"""The span of one epoch: from `epoch_started` to `epoch_finished` or `epoch_interrupted`."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from eventbus import StopEpoch
from eventbus.loops._closing import Ending
from eventbus.loops._metrics import Means, Metrics, settled
from eventbus.loops._report import Report

if TYPE_CHECKING:
    from eventbus.loops._spans import Spans

__all__ = ["EpochSpan"]


class EpochSpan:
    """One epoch under way.

    Attributes
    ----------
    means : Means
        Of what its steps reported, weighted by batch size.
    validations : dict
        The results of this epoch's validations, under their public keys.
    extra : Report
        What was reported outside batches and validations.
    open_passes : list
        Weak references to the loops over batches or steps that have begun and not ended.
    was_cut : bool
        A `Stop` left work undone.
    was_left : bool
        Something else did: `break`, `StopEpoch`, a failure that the user's code caught.
    """

    def __init__(self, spans: Spans, owner: object) -> None:
        self._spans = spans
        self.owner = weakref.ref(owner)
        self.means = Means()
        self.validations: dict[str, Any] = {}
        self.extra = Report()
        self._extra_before: dict[str, Any] = {}  # reported in an earlier life; the body runs again
        self.open_passes: list[weakref.ref[object]] = []
        self.was_cut = False
        self.was_left = False
        self._stop_epoch: StopEpoch | None = None  # kept, for the epoch's own end clears it

    @property
    def stop_epoch(self) -> StopEpoch | None:
        """What has ended its loops over batches, or is to."""
        if self._spans.epoch is self:
            self._stop_epoch = self._spans.pending().stop_epoch
        return self._stop_epoch

    @property
    def is_left(self) -> bool:
        """True once the loop over epochs is gone: dropped at `break` or `return`."""
        return self.owner() is None

    @property
    def taken(self) -> Mapping[str, Any]:
        """The keys that a step may not report: they would hide one another in the metrics."""
        extra = self.extra.metrics
        return {**extra, **self.validations} if self.validations else extra

    def check_free(self, keys: Iterable[str]) -> None:
        """Refuse the keys of a validation that training has reported."""
        for key in keys:
            if key in self.means or key in self.extra.metrics:
                raise ValueError(f"{key!r} was already reported for {self._place}, in training")

    def start(self) -> None:
        """Tell that it begins."""
        self._emit("epoch_started")

    def record(self, values: Mapping[str, Any]) -> None:
        """Keep what is reported outside batches and validations."""
        self.extra.add_metrics(values, self._place, {**self.means, **self.validations})
        self._spans.last.update({key: self.extra.metrics[key] for key in values})

    def note_undone(self) -> None:
        """Remember that work was left undone, and whether a `Stop` was the reason."""
        if self._spans.pending().stop is not None:
            self.was_cut = True
        else:
            self.was_left = True

    def note_left_passes(self) -> None:
        """Notice the loops over batches that Python dropped at `break` or `return`."""
        left = [one for one in self.open_passes if one() is None]
        if left:
            self.open_passes = [one for one in self.open_passes if one not in left]
            self._spans.schedules.go_back()
            if not self.open_passes and self._spans.pending().stop is None:
                self._spans.place.end_pass()
                self._spans.place.draws.end_loop()
            self.note_undone()

    def close(self, ending: Ending, reason: str = "") -> None:
        """End it: interrupted if a failure or a `Stop` left work undone, else finished."""
        spans = self._spans
        if self.open_passes and ending is not Ending.FAILED:
            self.note_undone()
        if spans.ranks is not None and ending is not Ending.FAILED:
            self.was_cut, self.was_left = spans.ranks.end_epoch(self.was_cut, self.was_left)
        stop_epoch = self.stop_epoch
        spans.epoch = None
        if self.open_passes:
            spans.schedules.go_back()
        spans.schedules.leave_body()
        spans.hints.untold()
        metrics = self._metrics()
        pending = spans.pending()
        if ending is Ending.FAILED or self.was_cut:
            spans.interrupted = self
            reason = reason or (pending.stop.reason if pending.stop else "")
            self._emit("epoch_interrupted", reason=reason, metrics=metrics)
            return
        spans.counts.epochs_done = spans.counts.epoch
        spans.place.begin()
        spans.schedules.end_epoch()
        is_cut_short = self.was_left or ending is Ending.LEFT or stop_epoch is not None
        self._emit("epoch_finished", metrics=metrics, complete=not is_cut_short)

    def state(self) -> dict[str, Any]:
        """Return what its metrics are made of, in tensors and plain Python."""
        extra = {**self._extra_before, **self.extra.metrics}
        end = self.stop_epoch
        return {
            "means": self.means.state(),
            "validations": {key: settled(value) for key, value in self.validations.items()},
            "extra": {key: settled(value) for key, value in extra.items()},
            "was_left": self.was_left or end is not None,
            "stop_epoch": None if end is None else {"reason": end.reason, "by": end.by},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle: it has begun before, and that was told then."""
        self.means = Means.of(state.get("means", {}))
        self.validations = dict(state.get("validations", {}))
        self._extra_before = dict(state.get("extra", {}))
        self.was_left = state.get("was_left", False)
        if (end := state.get("stop_epoch")) is not None:
            self._spans.emitter.pending.accept(StopEpoch(end["reason"], by=end["by"]))

    @property
    def _place(self) -> str:
        return f"epoch {self._spans.counts.epoch}"

    def _metrics(self) -> Metrics:
        extra = {**self._extra_before, **self.extra.metrics}
        values = {**self.means, **self.validations, **extra}
        self._spans.last.update(values)
        return Metrics(values)

    def _emit(self, signal: str, **fields: Any) -> None:
        spans = self._spans
        spans.emitter.emit(signal, epoch=spans.counts.epoch, step=spans.step, **fields)
