"""A validation: `validation_started`, its batches, then done or interrupted."""

from __future__ import annotations

from eventbus.answers import Stop
from eventbus.conformance.limits import Limits
from eventbus.conformance.metric_rules import EpochMetrics, check_prefix
from eventbus.conformance.place import Place, Seen, Tell

__all__ = ["ValidationRules"]


class ValidationRules:
    """What may follow what around a validation, its rounds, and the names of its metrics."""

    def __init__(self, place: Place, metrics: EpochMetrics, tell: Tell, limits: Limits) -> None:
        self._place = place
        self._metrics = metrics
        self._tell = tell
        self._limits = limits
        self._rounds: dict[str, int] = {}

    def validation_started(self, seen: Seen) -> None:
        """Check that validations begin one after the other, and none after a Stop."""
        identity = self._identity(seen)
        self._place.close_validation(seen, self._tell)
        stop = seen.must_know(Stop)
        if stop is not None and self._limits.serves("Stop"):
            message = f"begins another validation after Stop({stop.reason!r}) was given"
            self._tell(seen, "answers", message)
        self._check_where(seen)
        self._begin(seen, *identity)

    def _begin(self, seen: Seen, name: str, number: int) -> None:
        done = self._rounds.get(name, None if self._place.resumed else 0)
        if done is not None and number != done + 1:
            rule = f"round {done + 1} is next: the rounds of a name go up by one from 1"
            self._tell(seen, "counts", f"validation {name!r} begins round {number}, and {rule}")
        self._place.validation = name, number

    def validation_batch_finished(self, seen: Seen) -> None:
        """Check that a batch is of the validation that is open."""
        self._check_open(seen)
        check_prefix(seen, self._tell)

    def validation_done(self, seen: Seen) -> None:
        """Check that it ends what has begun, under its own names."""
        name, number = self._end(seen)
        self._rounds[name] = number
        self._metrics.validated(seen)

    def validation_interrupted(self, seen: Seen) -> None:
        """Check that it ends what has begun; its round is not used up."""
        name, number = self._end(seen)
        self._rounds[name] = number - 1

    def _end(self, seen: Seen) -> tuple[str, int]:
        self._check_open(seen)
        check_prefix(seen, self._tell)
        ended = self._place.validation or self._identity(seen)
        self._place.validation = None
        return ended

    def _check_open(self, seen: Seen) -> None:
        self._check_where(seen)
        identity = name, number = self._identity(seen)
        about = f"validation {name!r}, round {number}"
        if self._place.validation is None:
            self._tell(seen, "order", f"is of {about}, which is not open: validation_started first")
        elif identity != self._place.validation:
            open_name, open_number = self._place.validation
            now = f"validation {open_name!r}, round {open_number}, is under way"
            self._tell(seen, "counts", f"is of {about}, but {now}")

    def _check_where(self, seen: Seen) -> None:
        self._place.check_epoch(seen, self._tell)
        self._place.check_step(seen, self._tell)

    def _identity(self, seen: Seen) -> tuple[str, int]:
        name, number = seen.fields.get("name"), seen.count("round")
        open_name, open_number = self._place.validation or ("val", 1)
        return str(name or open_name), open_number if number is None else number
