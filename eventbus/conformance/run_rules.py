"""A whole run: from `run_opened` to `run_closed`, and which rules hear what in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from eventbus.answers import Request, SkipBatch, Stop, first
from eventbus.conformance.epoch_rules import EpochRules
from eventbus.conformance.limits import Limits
from eventbus.conformance.metric_rules import EpochMetrics, check_metrics
from eventbus.conformance.place import Place, Seen, Tell
from eventbus.conformance.step_rules import StepRules
from eventbus.conformance.validation_rules import ValidationRules
from eventbus.signals import STANDARD

__all__ = ["RunRules"]

ANY_TIME = frozenset(
    {
        "checkpoint_saved",
        "figure_drawn",
        "handler_failed",
        "learning_rate_changed",
        "metrics_measured",
        "state_requested",
        "state_restored",
        "stop_requested",
        "text_written",
    }
)
"""By the loop or by handlers, whenever a run is open."""

LOOP_SIGNALS = frozenset(STANDARD) - ANY_TIME
BEFORE_START = frozenset({"run_opened", "run_started", "run_failed", "run_closed"})
ENDS = frozenset({"run_finished", "run_failed", "run_closed"})


class RunRules:
    """One run on the bus and what it has done so far.

    Attributes
    ----------
    label : str
        Of its sender.
    run_id : str
    names : Counter
        How often each signal came.
    fields_sent : set of (str, str)
        Signals and the fields that they carried at least once.
    steps_in_epochs : list of int
        Steps finished in each epoch, those without an epoch in a first entry.
    between_epochs : list of str
        Names of the validations that were done after one epoch and before the next.
    is_closed : bool
    """

    def __init__(self, opening: Seen, run_id: str, tell: Tell, limits: Limits) -> None:
        self.label = opening.sender or ""
        self.run_id = run_id
        self.names: Counter[str] = Counter()
        self.fields_sent: set[tuple[str, str]] = set()
        self.steps_in_epochs = [0]
        self.between_epochs: list[str] = []
        self._after_epoch: list[str] = []
        self.is_closed = False
        self.last = opening
        self._tell = tell
        self._limits = limits
        self._sender = opening.sender
        self._end: Seen | None = None
        self._restored = False
        self._place = place = Place()
        metrics = EpochMetrics()
        self._steps = StepRules(place, metrics, tell, limits)
        self._epochs = EpochRules(place, metrics, self._steps, tell, limits)
        validations = ValidationRules(place, metrics, tell, limits)
        self._rules: dict[str, Callable[[Seen], None]] = {
            name: getattr(rules, name)
            for rules in (self, self._steps, self._epochs, validations)
            for name in STANDARD
            if hasattr(rules, name)
        }

    @property
    def context(self) -> dict[str, object]:
        """What handlers may name of the run."""
        return dict(self.last.context)

    @property
    def has_started(self) -> bool:
        """`run_started` was emitted."""
        return self.names["run_started"] > 0

    @property
    def interrupted(self) -> int:
        """Epochs that were interrupted."""
        return self._epochs.interrupted

    def see(self, seen: Seen) -> None:
        """Hold one emission of the run against the rules."""
        self._check_open(seen)
        self._check_sender(seen)
        self._note(seen)
        check_metrics(seen, self._tell)
        rule = self._rules.get(seen.name)
        if rule is not None:
            rule(seen)
        self.names[seen.name] += 1

    def know(
        self, name: str, answers: tuple[Request, ...], came_from_elsewhere: tuple[Request, ...]
    ) -> None:
        """Take in what is pending after an emission, and what came during it from no handler."""
        self._steps.know(name, first(SkipBatch, answers), came_from_elsewhere)

    def _note(self, seen: Seen) -> None:
        self.last = seen if seen.name in LOOP_SIGNALS else self.last
        self.fields_sent |= {(seen.name, k) for k, v in seen.fields.items() if v is not None}
        if seen.name == "epoch_started":
            self.steps_in_epochs.append(0)
            self.between_epochs += self._after_epoch
            self._after_epoch = []
        elif seen.name == "validation_done" and self.names["epoch_finished"]:
            self._after_epoch += [] if self._place.in_epoch else [str(seen.fields.get("name"))]
        elif seen.name == "batch_finished":
            self.steps_in_epochs[-1] += 1

    # -- what is open

    def _check_open(self, seen: Seen) -> None:
        if self.is_closed and (seen.name in LOOP_SIGNALS or not seen.is_inside):
            self._tell(seen, "closing", "came after run_closed, which is always the last of a run")
        elif seen.name not in LOOP_SIGNALS:
            return
        elif self._end is not None and seen.name not in ENDS:
            self._tell(seen, "closing", f"came after {self._end.name}: run_closed alone may follow")
        elif not self.has_started and seen.name not in BEFORE_START:
            self._tell(seen, "order", "came before run_started, which comes once, before the first")
            self.names["run_started"] += 1  # told once

    def _check_sender(self, seen: Seen) -> None:
        if seen.name in LOOP_SIGNALS and seen.sender != self._sender:
            message = f"has the sender {seen.sender!r}; the run was opened by {self._sender!r}"
            self._tell(seen, "run", message)

    def run_opened(self, seen: Seen) -> None:
        """Check that it comes once; a first one makes these rules."""
        if self.names["run_opened"]:
            self._tell(seen, "run", "came twice in one run, which is opened once")

    def state_restored(self, seen: Seen) -> None:
        """Remember that a checkpoint was read before the start."""
        self._restored = self._restored or not self.has_started

    def run_started(self, seen: Seen) -> None:
        """Check that it comes once; learn whether the run is resumed."""
        if self.has_started:
            self._tell(seen, "order", "came twice or too late: once, before the first epoch")
        if seen.fields.get("resumed_from") is not None:
            self._place.resumed = True
            self._place.steps_done = None
            self._epochs.resume()
        elif self._restored:
            message = "says nothing in 'resumed_from', though state was restored in run_opened"
            self._tell(seen, "answers", f"{message}: what was restored will be reset")

    # -- its end

    def run_finished(self, seen: Seen) -> None:
        """Check that all is closed, and why the run ends."""
        self._check_ends_once(seen)
        self._close_spans(seen)
        self._check_place(seen)
        self._steps.end()
        stops = [answer.reason for answer in seen.pending if isinstance(answer, Stop)]
        reason = seen.fields.get("reason")
        if stops and reason not in stops and self._limits.serves("Stop"):
            self._tell(seen, "answers", f"says reason {reason!r}; the Stop's is {stops[0]!r}")
        if self._epochs.interrupted and (reason == "completed" or not stops):
            message = "an epoch was interrupted, which only a Stop or a failure does"
            self._tell(seen, "order", f"{message}: an epoch cut short otherwise is finished")

    def run_failed(self, seen: Seen) -> None:
        """Check that all is closed before the failure is told."""
        self._check_ends_once(seen)
        self._close_spans(seen)
        self._check_place(seen)

    def run_closed(self, seen: Seen) -> None:
        """Check that the run has told how it ended, and says so again."""
        self.is_closed = True
        if seen.fields.get("outcome") == "failed" and not self._limits.serves("run_failed"):
            return
        self._close_spans(seen)
        if self._end is None:
            message = "came without run_finished or run_failed, one of which tells how it ended"
            self._tell(seen, "closing", message)
        else:
            self._check_outcome(seen, self._end)

    def end_watch(self) -> None:
        """Tell of a run that was never closed."""
        if not self.is_closed:
            message = "nothing of the run came after it: run_closed is always the last"
            self._tell(self.last, "closing", message)

    def _check_ends_once(self, seen: Seen) -> None:
        if self._end is not None:
            message = f"came after {self._end.name}: a run ends once, finished or failed"
            self._tell(seen, "closing", message)
        self._end = seen

    def _check_outcome(self, seen: Seen, end: Seen) -> None:
        outcome = seen.fields.get("outcome")
        completed = "completed" if end.fields.get("reason") == "completed" else "stopped"
        # A handler that fails in run_finished fails the run, and run_failed does not come any more.
        expected = ("failed",) if end.name == "run_failed" else (completed, "failed")
        if outcome not in expected:
            message = f"says outcome {outcome!r} after {end.name}; {expected[0]!r} was expected"
            self._tell(seen, "closing", message)

    def _check_place(self, seen: Seen) -> None:
        self._place.check_epoch(seen, self._tell)
        self._place.check_step(seen, self._tell)

    def _close_spans(self, seen: Seen) -> None:
        for what, closers in self._place.open_spans():
            self._tell(seen, "closing", f"{what} is still open: {closers} comes first")
        self._place.validation = self._place.step = None
        self._place.in_epoch = False
