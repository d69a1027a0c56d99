"""An epoch: from `epoch_started` to exactly one of `epoch_finished` and `epoch_interrupted`."""

from __future__ import annotations

from eventbus.answers import Stop, StopEpoch
from eventbus.conformance.limits import Limits
from eventbus.conformance.metric_rules import EpochMetrics
from eventbus.conformance.place import Place, Seen, Tell
from eventbus.conformance.step_rules import StepRules

__all__ = ["EpochRules"]


class EpochRules:
    """What may follow what around an epoch, what it counts, and what its metrics hold.

    Attributes
    ----------
    interrupted : int
        Epochs that were interrupted; only a stopped or failed run has one.
    """

    def __init__(
        self, place: Place, metrics: EpochMetrics, steps: StepRules, tell: Tell, limits: Limits
    ) -> None:
        self._place = place
        self._metrics = metrics
        self._steps = steps
        self._tell = tell
        self._limits = limits
        self._done: int | None = 0
        self.interrupted = 0

    def resume(self) -> None:
        """Count from anywhere: the run goes on from a checkpoint, perhaps within an epoch."""
        self._done = None
        self._place.may_be_within_epoch = True
        self._metrics.begin_midway()
        self._steps.begin_epoch(midway=True)

    def epoch_started(self, seen: Seen) -> None:
        """Check that epochs begin one after the other, each one up by one."""
        place = self._place
        self._close_inner(seen)
        if place.in_epoch:
            closers = "epoch_finished or epoch_interrupted"
            self._tell(seen, "closing", f"epoch {place.epoch} is still open: {closers} comes first")
            self._done = place.epoch
        stop = seen.must_know(Stop)
        if stop is not None and self._limits.serves("Stop"):
            message = f"begins another epoch after Stop({stop.reason!r}) was given"
            self._tell(seen, "answers", message)
        place.check_step(seen, self._tell)
        self._begin(seen)

    def _begin(self, seen: Seen) -> None:
        epoch = seen.count("epoch")
        expected = None if self._done is None else self._done + 1
        if epoch is not None and expected is not None and epoch != expected:
            rule = "epochs go up by one from 1"
            self._tell(seen, "counts", f"epoch {epoch} begins, and {expected} is next: {rule}")
        self._place.epoch = epoch if epoch is not None else (expected or 1)
        self._place.in_epoch, self._place.may_be_within_epoch = True, False
        self._metrics.begin()
        self._steps.begin_epoch()

    def epoch_finished(self, seen: Seen) -> None:
        """Check that it ends what has begun, with the metrics of this epoch."""
        self._end(seen)
        self._metrics.check(seen, self._tell)
        self._done = self._place.epoch
        stop_epoch = seen.must_know(StopEpoch)
        is_cut = stop_epoch is not None and self._limits.serves("StopEpoch")
        if is_cut and seen.fields.get("complete") is True:
            message = "says complete=True after a StopEpoch: a handler cut it short"
            self._tell(seen, "answers", message)

    def epoch_interrupted(self, seen: Seen) -> None:
        """Check that it ends what has begun; the epoch is not done."""
        self._end(seen)
        self._done = self._place.epoch - 1
        self.interrupted += 1

    def _end(self, seen: Seen) -> None:
        self._close_inner(seen)
        place, epoch = self._place, seen.count("epoch")
        place.enter_resumed_epoch(epoch or 0)
        if not place.in_epoch:
            over = epoch is not None and epoch == place.epoch
            why = f"epoch {epoch} is over already" if over else "no epoch_started came before it"
            self._tell(seen, "order", f"ends epoch {epoch}, and none is under way: {why}")
            place.epoch = place.epoch if epoch is None else epoch
        else:
            place.check_epoch(seen, self._tell)
        place.check_step(seen, self._tell)
        place.in_epoch = False

    def _close_inner(self, seen: Seen) -> None:
        """Tell of what should have been closed before, and take it as closed."""
        for what, closers in self._place.open_spans():
            if not what.startswith("epoch"):
                self._tell(seen, "closing", f"{what} is still open: {closers} comes first")
        self._place.validation = self._place.step = None
