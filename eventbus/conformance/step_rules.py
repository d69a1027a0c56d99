"""A step: `batch_loaded`, `batch_started`, `backward_finished`, `batch_finished`, or skipped."""

from __future__ import annotations

from eventbus.answers import Request, SkipBatch, Stop, StopEpoch
from eventbus.conformance.limits import Limits
from eventbus.conformance.metric_rules import EpochMetrics, check_loss
from eventbus.conformance.place import OpenStep, Place, Seen, Tell

__all__ = ["StepRules"]


class StepRules:
    """What may follow what within a pass over the data, and what its signals count.

    Parameters
    ----------
    place
        Where the run is; opened and closed here is its step.
    metrics
        Of the epoch, which the steps go into.
    tell
        Where violations go.
    limits
        What this loop is known not to serve.
    """

    def __init__(self, place: Place, metrics: EpochMetrics, tell: Tell, limits: Limits) -> None:
        self._place = place
        self._metrics = metrics
        self._tell = tell
        self._limits = limits
        self._has_loader = False
        self._batch_index: int | None = 0
        self._has_backward: bool | None = None  # of the finished steps so far
        self._unasked: list[Seen] = []

    def begin_epoch(self, midway: bool = False) -> None:
        """Count the batches of a new epoch, or go on with those of one that began before."""
        self._has_loader = False
        self._batch_index = None if midway else 0

    # -- data

    def loader_opened(self, seen: Seen) -> None:
        """Check that data is opened within an epoch and between steps."""
        self._check_around(seen)
        self._refuse_within_step(seen, "a loader is opened between steps")
        self._place.check_step(seen, self._tell)
        self._has_loader = True
        if not self._place.in_epoch:
            self._batch_index = None if self._place.resumed else 0

    def batch_loaded(self, seen: Seen) -> None:
        """Check a micro-batch: its place, its number, and that nobody has called a halt."""
        self._check_around(seen)
        if not (self._has_loader or not self._limits.serves("loader_opened")):
            self._tell(seen, "order", "a batch was loaded before loader_opened told of its loader")
            self._has_loader = True  # told once for all batches of the pass
        is_first = self._place.step is None
        if is_first:
            self._check_may_begin(seen, "loads another batch")
        self._check_batch_index(seen)
        step = self._open(seen)
        if is_first:
            step.came_late = seen.unknown
        if step.started and not step.loads:
            self._tell(seen, "order", f"step {step.number} was started before its batch was loaded")
        if step.has_backward:
            message = f"a batch of step {step.number} was loaded after its backward_finished"
            self._tell(seen, "order", message)
        step.loads += 1

    def _check_batch_index(self, seen: Seen) -> None:
        index = seen.count("batch_index")
        if index is None:
            return
        if self._batch_index is not None and index != self._batch_index + 1:
            expected = f"{self._batch_index + 1} was expected: up by one within the epoch"
            self._tell(seen, "counts", f"says batch_index {index}; {expected}")
        self._batch_index = index

    # -- work

    def batch_started(self, seen: Seen) -> None:
        """Check that a step begins once, after its batch, and that nobody has called a halt."""
        self._check_around(seen)
        self._check_may_start(seen)
        step = self._open(seen)
        if step.started:
            message = f"step {step.number} was started already: it ends by batch_finished or"
            self._tell(seen, "order", f"{message} batch_skipped before another one begins")
            step.has_backward = False
        if not step.loads and self._has_loader and self._limits.serves("batch_loaded"):
            self._tell(seen, "order", f"step {step.number} starts without batch_loaded before it")
        step.started = True

    def backward_finished(self, seen: Seen) -> None:
        """Check that gradients come once, within a step."""
        self._check_around(seen)
        step = self._within_started(seen)
        if step.has_backward:
            message = f"came twice in step {step.number}: once per step, before the optimizer"
            self._tell(seen, "order", message)
        step.has_backward = True

    def batch_finished(self, seen: Seen) -> None:
        """Check that a step that was started is finished, once, with its numbers."""
        self._check_around(seen)
        step = self._within_started(seen)
        if step.refused is not None:
            reason = step.refused.reason
            message = f"step {step.number} was to be skipped, as SkipBatch({reason!r}) wanted"
            self._tell(seen, "answers", f"{message}: batch_skipped comes in its place")
        self._check_backward(seen, step)
        check_loss(seen, self._tell)
        self._metrics.trained(seen)
        self._place.step = None
        self._place.steps_done = step.number

    def batch_skipped(self, seen: Seen) -> None:
        """Check that it is in place of a finish, or that an answer kept the step from beginning."""
        self._check_around(seen)
        step = self._place.step
        if step is None and not seen.pending:
            self._tell(seen, "order", f"{self._nothing_open(seen)}: nothing is there to skip")
        elif step is not None and not step.started and not seen.pending:
            self._unasked.append(seen)
        self._number(seen)
        self._place.step = None

    def end(self) -> None:
        """The run did not fail: tell of steps that were skipped before their start for nothing."""
        for seen in self._unasked if self._limits.serves("batch_started") else ():
            message = "skips a step that was not started, and no handler had asked for it"
            self._tell(seen, "order", message)

    def _check_backward(self, seen: Seen, step: OpenStep) -> None:
        if self._has_backward is None:
            self._has_backward = step.has_backward
        elif step.has_backward != self._has_backward:
            way = "with" if step.has_backward else "without"
            message = f"step {step.number} came {way} backward_finished, unlike the steps before"
            self._tell(seen, "order", f"{message}: once per step, or never")

    # -- answers

    def know(
        self, name: str, skip: SkipBatch | None, came_from_elsewhere: tuple[Request, ...]
    ) -> None:
        """Take in what is pending after a signal of the step, at which the loop looks."""
        step = self._place.step
        if step is not None and name == "batch_loaded" and not step.started:
            step.came_late += came_from_elsewhere
        if step is None or not self._limits.serves("SkipBatch", name):
            return
        is_before_body = name == "batch_loaded" and not step.started
        if is_before_body or name in ("batch_started", "backward_finished"):
            step.refused = step.refused or skip

    def _check_may_start(self, seen: Seen) -> None:
        if self._place.step is not None and not self._limits.serves("SkipBatch", "batch_loaded"):
            return  # it is loaded, and the loop cannot drop it any more
        # What came while its batch was loaded may wait for the end of the step.
        late = self._place.step.came_late if self._place.step is not None else ()
        self._check_may_begin(seen, "starts another step", late)
        skip = seen.must_know(SkipBatch)
        if skip is not None and self._limits.serves("SkipBatch"):
            message = f"starts a step that SkipBatch({skip.reason!r}) had refused before"
            self._tell(seen, "answers", message)

    def _check_may_begin(self, seen: Seen, what: str, late: tuple[Request, ...] = ()) -> None:
        stop, stop_epoch = seen.must_know(Stop, late), seen.must_know(StopEpoch, late)
        if stop is not None and self._limits.serves("Stop"):
            self._tell(seen, "answers", f"{what} after Stop({stop.reason!r}) was given")
        elif stop_epoch is not None and self._place.in_epoch and self._limits.serves("StopEpoch"):
            message = f"{what} of the epoch after StopEpoch({stop_epoch.reason!r}) was given"
            self._tell(seen, "answers", message)

    # -- where it is

    def _check_around(self, seen: Seen) -> None:
        self._place.check_in_epoch(seen, self._tell)
        self._place.close_validation(seen, self._tell)

    def _refuse_within_step(self, seen: Seen, rule: str) -> None:
        if self._place.step is not None:
            message = f"step {self._place.step.number} is still open: batch_finished or"
            self._tell(seen, "closing", f"{message} batch_skipped comes first; {rule}")
            self._place.step = None

    def _number(self, seen: Seen) -> int:
        """Return the number of the step that the signal is of, after holding it against it."""
        place, said = self._place, seen.count("step")
        if said is None:
            return place.step.number if place.step else (place.steps_done or 0) + 1
        if place.steps_done is None:
            place.steps_done = said - 1
        expected = place.step.number if place.step else place.steps_done + 1
        if said != expected:
            self._tell(seen, "counts", f"says step {said}; {self._why(said, expected)}")
        return said

    def _why(self, said: int, expected: int) -> str:
        step, done = self._place.step, self._place.steps_done
        if step is not None:
            return f"step {step.number} is under way, and not yet finished or skipped"
        if said == done:
            return f"that one is finished: {expected} is next"
        return f"{expected} is next: steps go up by one, and a skipped one keeps its number"

    def _open(self, seen: Seen) -> OpenStep:
        number = self._number(seen)
        step = self._place.step
        if step is None or step.number != number:
            step = self._place.step = OpenStep(number)
        return step

    def _within_started(self, seen: Seen) -> OpenStep:
        step = self._place.step
        if not self._limits.serves("batch_started"):
            return self._open(seen)
        if step is None:
            self._tell(seen, "order", f"{self._nothing_open(seen)}: batch_started comes first")
        elif not step.started:
            message = f"step {step.number} was loaded and not started: batch_started comes first"
            self._tell(seen, "order", message)
        if step is None:
            return OpenStep(self._number(seen), started=True)
        self._number(seen)
        step.started = True
        return step

    def _nothing_open(self, seen: Seen) -> str:
        said = seen.count("step")
        if said is not None and said == self._place.steps_done:
            return f"step {said} is finished already"
        return "no step is under way" if said is None else f"step {said} is not under way"
