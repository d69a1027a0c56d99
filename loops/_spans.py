"""Which spans of a run are open, and the one place that says when each is closed.

A span is closed by the next call on the Run. Spans nest: a validation may be inside a step, a step
inside an epoch; closing one closes those inside it first. Each marks itself closed before it tells,
so whatever a handler raises, none is closed twice.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from eventbus.loops._batch import BatchSpan
from eventbus.loops._closing import Ending
from eventbus.loops._epoch import EpochSpan
from eventbus.loops._frozen import Frozen
from eventbus.loops._hints import Hints
from eventbus.loops._place import Place
from eventbus.loops._position import Position
from eventbus.loops._redone import Redone
from eventbus.loops._report import Report
from eventbus.loops._schedules import Schedules
from eventbus.loops._validation import ValidationSpan

if TYPE_CHECKING:
    from eventbus import Answers, Emitter, Stop, StopEpoch
    from eventbus.loops._agreement import Agreement
    from eventbus.loops._counts import Counts
    from eventbus.loops._pass import Pass
    from eventbus.loops._ranks import Ranks
    from eventbus.pending import Pending

__all__ = ["Spans"]


class Spans:
    """The open spans of one run, its counts, and its last metrics.

    Attributes
    ----------
    emitter : Emitter
    heeded : Pending or Agreement
        The answers that are heeded: those pending in this process, or those that all ranks have
        agreed on.
    ranks : Ranks or None
        What the ranks meet at; None in a process that goes alone.
    counts : Counts
    last : dict
        The last value of each metric.
    place : Place
        Where in the data the epoch is.
    position : Position
        What a checkpoint keeps of all this.
    hints : Hints
        What is said of a loop that looks wrong.
    schedules : Schedules
        The schedulers, as a resumed run is to find them.
    frozen : Frozen
        The parameters that are not trained.
    redone : Redone
        What the code before the loops of a body changes again.
    interrupted : EpochSpan or None
        The epoch that was ended with work undone: with which a resumed run goes on.
    epoch, batch, validation
        The open span of that kind, or None.
    passing
        Returns the loop over batches or steps that began last, where it still lives.
    has_started : bool
        `run_started` was emitted.
    has_stepped : bool
        An optimizer of the run has stepped in one of its steps.
    resumed_from : str or None
        The checkpoint that the run goes on from.
    generators_before : mapping or None
        The random generators as they were before a validation that is under way, or was cut, and
        is to be done again; or where a `Stop` has cut a pass, which is to go on with them.
    is_under_way : bool
        `run_started` was emitted, and the run is not over: what each call on a Run asks first.
    is_closed : bool
        The run is over; nothing can be emitted any more.
    """

    def __init__(self, emitter: Emitter, counts: Counts) -> None:
        self.emitter = emitter
        self.heeded: Pending | Agreement = emitter.pending
        self.ranks: Ranks | None = None
        self.counts = counts
        self.last: dict[str, Any] = {}
        self.place = Place()
        self.position = Position(self)
        self.hints = Hints(self)
        self.schedules = Schedules({})
        self.frozen = Frozen({})
        self.redone = Redone({})
        self.interrupted: EpochSpan | None = None
        self.epoch: EpochSpan | None = None
        self.batch: BatchSpan | None = None
        self.validation: ValidationSpan | None = None
        self.passing: Callable[[], Pass | None] = lambda: None
        self.has_started = self.has_stepped = False
        self.resumed_from: str | None = None
        self.generators_before: Mapping[str, Any] | None = None
        self.is_under_way = False
        self.is_closed = False
        self._watched: set[weakref.ref[object]] = set()
        self._has_lost_some = False
        self._loose = Report()

    @property
    def step(self) -> int:
        """The step under way, else the last one finished."""
        return self.batch.step if self.batch is not None else self.counts.steps_done

    def pending(self) -> Answers:
        """Return the answers that are pending: what every safe point asks."""
        return self.heeded.answers

    def cut(self) -> Stop | StopEpoch | None:
        """Return what ends the loop over batches or steps now; without epochs, only a `Stop`."""
        if self.heeded.quiet:  # nearly always, and several times a step
            return None
        pending = self.pending()
        return pending.stop or (pending.stop_epoch if self.epoch is not None else None)

    def skips(self) -> bool:
        """Tell whether this batch is to be left out."""
        return not self.heeded.quiet and self.pending().skip is not None

    def start(self, epochs: int | None = None, steps: int | None = None) -> None:
        """Emit `run_started`, once: at the first use, when it is known how long the run will be."""
        if self.is_closed:
            raise RuntimeError("this Run is over; make another one")
        if not self.has_started:
            self.has_started = self.is_under_way = True
            self.note_thread()
            self.counts.start()
            self.emitter.emit(
                "run_started", epochs=epochs, steps=steps, resumed_from=self.resumed_from
            )

    def note_thread(self) -> None:
        """Take note which thread goes on with the run: what that one opens is inside it."""
        self.emitter.bus.runs.go_on_with(self.emitter)

    def end(self) -> None:
        """The run is over."""
        self.is_closed = True
        self.is_under_way = False

    # -- opening

    def open_epoch(self, owner: object) -> None:
        """Begin the epoch after the last finished one, or go on in the middle of it."""
        self.note_thread()
        self.counts.epoch = self.counts.epochs_done + 1
        self.interrupted = None
        self.epoch = EpochSpan(self, owner)
        so_far = self.position.take(self.counts.epoch)
        if so_far is not None:
            self.epoch.restore(so_far)
            self.counts.batch_index = self.place.batch_index
        else:
            self.counts.batch_index = 0
            self.place.begin()
            self.epoch.start()
        self.schedules.begin_epoch()
        self.hints.begin_epoch()
        self.frozen.begin_epoch()

    def open_batch(self, owner: object) -> BatchSpan:
        """Begin the step after the last finished one; tells nothing yet."""
        if self.epoch is None:
            self._loose = Report()  # without epochs, it is for the time between two steps
        self.batch = BatchSpan(self, owner)
        return self.batch

    def open_validation(self, name: str, owner: object, held: bool = False) -> ValidationSpan:
        """Begin a validation; a silent one if a `Stop` is pending.

        A step that was reported is finished first; one that was not stays open around it.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"a validation is named by a non-empty string; got {name!r}")
        self.start()
        self.note_thread()
        self.close_left()
        self._close_validation("run.validation()")
        if not self.is_in_body:
            self.schedules.leave_body()
        if self.batch is not None or self.is_in_body:
            self.place.done.note_due(name, in_step=self.batch is not None)
        if self.batch is not None and self.batch.is_ready:
            self.batch.close(Ending.LEFT)
        span = ValidationSpan(self, name, owner, held)
        span.is_behind = self.position.is_reached and self.place.done.passes_over_validation(
            name, in_pass=self.place.is_open
        )
        span.is_gone_through = span.is_behind and self.place.done.is_told
        stop = None if span.is_behind else self.pending().stop
        span.silent = span.is_behind or stop is not None
        if stop is not None:
            self.hints.left_out(name, stop)
        self.validation = span
        if stop is not None or (span.is_behind and not span.is_gone_through):
            self.hints.gave_none(name, stop)
        if stop is not None:
            self.note_undone()
        elif not span.is_behind and self.epoch is not None and self.is_between:
            self.place.draws.begin_loop()
            self.hints.redone()
        span.start()
        return span

    @property
    def is_in_body(self) -> bool:
        """True in the body of a loop over batches or steps, also once its step is finished."""
        passing = self.passing()
        return passing is not None and passing.is_under_way

    @property
    def is_between(self) -> bool:
        """True outside of the loops over batches and steps, where a resumed run comes again."""
        if self.epoch is not None:
            return not self.epoch.open_passes
        return self.position.is_reached and not self.is_in_body

    @property
    def is_redone(self) -> bool:
        """True where a resumed run does again what is cut: between steps, or with all of a step."""
        return self.is_between if self.batch is None else not self.batch.has_stepped

    def record(self, values: Mapping[str, Any]) -> None:
        """Keep what is reported, for the innermost open span."""
        if not self.is_under_way:
            self.start()
        if self._has_lost_some:
            self.close_left()
        if self.validation is not None:
            self.validation.record(values)
        elif self.batch is not None:
            self.batch.record(values)
        elif self.epoch is not None:
            self.epoch.record(values)
        else:
            self._loose.add_metrics(values, "the run outside of its steps", ())
            self.last.update({key: self._loose.metrics[key] for key in values})

    def skip(self, reason: str) -> None:
        """Have the micro-batch under way left out, as the loop wants it."""
        if self.batch is None or not self.batch.bodies or self.validation is not None:
            raise RuntimeError(
                f"run.skip({reason!r}): no batch is under way; it goes into the body of "
                "run.batches() or run.steps(), and not into a validation"
            )
        self.batch.tell_to_skip(reason)

    def note_undone(self) -> None:
        """Remember that work of this epoch was left undone."""
        if self.epoch is not None:
            self.epoch.note_undone()

    # -- closing

    def watch(self, owner: object) -> None:
        """Notice when a loop is gone: Python drops it at `break` or `return`."""
        self._watched.add(weakref.ref(owner, self._lose))

    def _lose(self, owner: weakref.ref[object]) -> None:
        # Python calls this wherever it happens to be, so it only notes what `close_left` acts on.
        self._watched.discard(owner)
        self._has_lost_some = True

    def close_left(self) -> None:
        """Close the spans whose loop was left by `break` or `return`, and those inside them."""
        if self._has_lost_some:
            self._close_left()
            self._has_lost_some = False

    def _close_left(self) -> None:
        epoch, batch, validation = self.epoch, self.batch, self.validation
        if epoch is not None:
            epoch.note_left_passes()
            if epoch.is_left:
                self.close_all(Ending.LEFT)
                return
        elif self.place.is_open and self.passing() is None and self.pending().stop is None:
            self.place.end_pass()
        if batch is not None and batch.is_left:
            self._close_validation_and_batch()
        elif validation is not None and validation.is_left:
            validation.close(Ending.LEFT)

    def _close_validation_and_batch(self) -> None:
        for span in (self.validation, self.batch):
            if span is not None:
                span.close(Ending.LEFT)

    def end_body_of_steps(self, owner: object, call: str) -> None:
        """The loop over steps asks for its next: end the body of its last one."""
        if self._has_lost_some:
            self.close_left()
        if self.validation is not None:
            self._close_validation(call)
        if self.place.done.has_undone and self.pending().stop is None:
            self.place.done.end_body()
        batch = self.batch
        if batch is not None:
            if batch.owner() is owner:
                batch.leave()
            else:
                batch.close(Ending.LEFT)
        if self.ranks is not None and self.batch is None:
            self.ranks.before_step()

    def end_body_of_epochs(self, owner: object) -> None:
        """The loop over epochs asks for its next: end the body of its last one."""
        self.close_left()
        self._close_validation("run.epochs()")
        if self.batch is not None:
            self.batch.close(Ending.LEFT)
        if self.epoch is not None:
            self.hints.no_backward()
            is_own = self.epoch.owner() is owner
            self.epoch.close(Ending.COMPLETED if is_own else Ending.LEFT)

    def close_all(self, ending: Ending, reason: str = "") -> None:
        """End what is open at the end of the run."""
        for span in (self.validation, self.batch, self.epoch):
            if span is not None:
                span.close(ending, reason)

    def _close_validation(self, call: str) -> None:
        if self.validation is None:
            return
        if self.validation.held:
            raise RuntimeError(f"{call} inside `with run.validation()`: end that block first")
        self.validation.close(Ending.LEFT)
