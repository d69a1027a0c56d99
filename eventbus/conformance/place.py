"""Where a run is, as far as its own signals have said; and the emission that is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from eventbus.answers import Request, SkipBatch, first
from eventbus.conformance.report import Rule

__all__ = ["OpenStep", "Place", "Seen", "Tell", "count"]

R = TypeVar("R", bound=Request)


@dataclass(frozen=True)
class Seen:
    """One emission of a run, as its handlers would see it.

    Attributes
    ----------
    name, sender, fields, context
        As in the event.
    at : int
        Which emission on the bus it is, from 1.
    pending : tuple of Request
        The answers that are pending as it begins.
    known : tuple of Request
        Those of them that the loop could know of: pending when its last emission ended.
    is_inside : bool
        It is emitted while another emission is under way: by a handler, or by the bus.
    """

    name: str
    sender: str | None
    fields: Mapping[str, Any]
    context: Mapping[str, Any] = field(default_factory=dict)
    pending: tuple[Request, ...] = ()
    known: tuple[Request, ...] = ()
    is_inside: bool = False
    at: int = 0

    def count(self, name: str) -> int | None:
        """Return a field that counts; None where it is missing or no count at all."""
        return count(self.fields.get(name))

    def must_know(self, kind: type[R], late: tuple[Request, ...] = ()) -> R | None:
        """Return an answer of that kind that the loop has had the time to serve; none of `late`."""
        return first(kind, tuple(a for a in self.known if not any(a is one for one in late)))

    @property
    def unknown(self) -> tuple[Request, ...]:
        """Those that came since its last emission."""
        return tuple(a for a in self.pending if not any(a is one for one in self.known))


Tell = Callable[[Seen, Rule, str], None]


@dataclass
class OpenStep:
    """A step that has begun: a batch of it was loaded, or it was started.

    Attributes
    ----------
    number : int
    started : bool
        `batch_started` was emitted.
    loads : int
        Micro-batches that were loaded for it.
    has_backward : bool
        `backward_finished` was emitted.
    refused : SkipBatch or None
        The answer by which it must end as skipped.
    came_late : tuple of Request
        What was answered while its first batch was loaded: it may be taken nevertheless.
    """

    number: int
    started: bool = False
    loads: int = 0
    has_backward: bool = False
    refused: SkipBatch | None = None
    came_late: tuple[Request, ...] = ()


@dataclass
class Place:
    """Where one run is.

    Attributes
    ----------
    resumed : bool
        It goes on from a checkpoint: counts start anywhere, perhaps within an epoch.
    epoch : int
        The epoch under way, else the last one; 0 before the first.
    in_epoch : bool
        An epoch is open.
    may_be_within_epoch : bool
        A resumed run has not yet begun an epoch: one may be under way that began before.
    steps_done : int or None
        Finished steps; None where a resumed run has not yet said.
    step : OpenStep or None
    validation : tuple of (str, int) or None
        Name and round of the one that is open.
    """

    resumed: bool = False
    epoch: int = 0
    in_epoch: bool = False
    may_be_within_epoch: bool = False
    steps_done: int | None = 0
    step: OpenStep | None = None
    validation: tuple[str, int] | None = None

    @property
    def step_now(self) -> int | None:
        """The step under way, else the last one finished; None where that is not known."""
        return self.steps_done if self.step is None else self.step.number

    def open_spans(self) -> list[tuple[str, str]]:
        """Return what is open, the innermost first, and what would close it."""
        spans = []
        if self.validation is not None:
            name, number = self.validation
            closers = "validation_done or validation_interrupted"
            spans.append((f"validation {name!r}, round {number},", closers))
        if self.step is not None:
            spans.append((f"step {self.step.number}", "batch_finished or batch_skipped"))
        if self.in_epoch:
            spans.append((f"epoch {self.epoch}", "epoch_finished or epoch_interrupted"))
        return spans

    def close_validation(self, seen: Seen, tell: Tell) -> None:
        """Tell of a validation that should have been closed before, and take it as closed."""
        if self.validation is not None:
            what, closers = self.open_spans()[0]
            tell(seen, "closing", f"{what} is still open: {closers} comes first")
            self.validation = None

    def check_step(self, seen: Seen, tell: Tell) -> None:
        """Hold the step of something that is no step against where the run is."""
        step = seen.count("step")
        if step is None:
            return
        if self.step_now is None:
            self.steps_done = step
        elif step != self.step_now:
            now = f"step {self.step_now} is under way" if self.step else self._done()
            tell(seen, "counts", f"says step {step}, but {now}")

    def check_epoch(self, seen: Seen, tell: Tell) -> None:
        """Hold the epoch of something that may come within and between epochs."""
        epoch = seen.count("epoch")
        if epoch is None:
            return
        if self.may_be_within_epoch:
            self.epoch = epoch
        elif epoch != self.epoch:
            now = "is under way" if self.in_epoch else "was the last one"
            about = f"epoch {self.epoch} {now}" if self.epoch else "no epoch has begun"
            tell(seen, "counts", f"says epoch {epoch}, but {about}")

    def check_in_epoch(self, seen: Seen, tell: Tell) -> None:
        """Refuse what belongs to an epoch and comes outside of one; 0 is a loop without epochs."""
        epoch = seen.count("epoch")
        if epoch is None:
            return
        self.enter_resumed_epoch(epoch)
        if self.in_epoch or epoch == self.epoch == 0:
            self.check_epoch(seen, tell)
            return
        before = f"epoch {epoch} is over" if epoch == self.epoch else "no epoch_started came before"
        hint = "" if self.epoch else "; a loop without epochs says epoch 0"
        tell(seen, "order", f"says epoch {epoch} outside of any epoch: {before}{hint}")
        self.epoch, self.in_epoch = epoch, epoch > 0  # told once, and not for all that follows

    def enter_resumed_epoch(self, epoch: int) -> None:
        """Take it that the epoch has begun before the checkpoint, if that may be."""
        if self.may_be_within_epoch and epoch > 0:
            self.may_be_within_epoch = False
            self.epoch, self.in_epoch = epoch, True

    def _done(self) -> str:
        return f"step {self.steps_done} is the last one finished" if self.steps_done else NO_STEP


NO_STEP = "no step is finished"


def count(value: Any) -> int | None:
    """Return a value if it is a count, an int and no bool; else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
