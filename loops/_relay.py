"""A run whose loop is somebody else's: what a framework's hooks say becomes the signals of a run.

An adapter translates hooks into calls on a `Relay`, in the order in which they come, and reads from
it what the handlers answered. The relay keeps the counts: they go up by one whatever the framework
itself counts, and go on where a restored run was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from eventbus import SkipBatch
from eventbus.loops._batch import Body
from eventbus.loops._closing import Ending
from eventbus.loops._loader import tell_samplers
from eventbus.loops._nested import detached
from eventbus.loops._relayed_run import RelayedRun

if TYPE_CHECKING:
    from eventbus import EventBus
    from eventbus.loops._batch import BatchSpan
    from eventbus.loops._validation import ValidationSpan

__all__ = ["Relay"]


class Relay(RelayedRun):
    """The signals of one run, told by the hooks of a framework.

    A micro-batch that a handler answers `SkipBatch` to, and each one after a `Stop`, is *passed
    over*: a framework may go through its forward and backward, but the adapter sees to it that
    nothing of its gradients stays, and nothing more is told of it. A step of which nothing else is
    there is not taken: `gradients_ready` says False.

    Parameters
    ----------
    bus, framework, name, cannot
        As for `RelayedRun`.
    """

    def __init__(
        self,
        bus: EventBus,
        framework: str,
        *,
        name: str | None = None,
        cannot: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(bus, framework, name=name, cannot=cannot)
        self._passes_over = False
        self._ended = 0  # micro-batches of the step under way
        self._longest = 0  # of the steps so far, in micro-batches

    def start(self, *, epochs: int | None = None, steps: int | None = None) -> None:
        """Emit `run_started`; `epochs` and `steps` are those in all, as far as they are known."""
        self._passes_over = False
        self._ended = self._longest = 0
        super().start(epochs=epochs, steps=steps)

    @property
    def is_over(self) -> bool:
        """True where the run is to end now: a `Stop`, or all its epochs are done.

        Micro-batches that are accumulated are first brought to their end, as by a `Run`.
        """
        return super().is_over and not self._goes_on

    @property
    def is_epoch_over(self) -> bool:
        """True where the epoch is to end now; not between the micro-batches of a step."""
        return super().is_epoch_over and not self._goes_on

    @property
    def _goes_on(self) -> bool:
        """True within a step that is yet to be taken.

        One that takes longer than any before may not come to its end: where a loss scaler gives up
        each step, or the framework has none left.
        """
        span = self._spans.batch
        is_within = span is not None and span.bodies > 0
        return is_within and (not self._longest or self._ended < self._longest)

    # -- epochs and their data

    def begin_epoch(self) -> None:
        """Emit `epoch_started`; nothing where the run is over."""
        if not self.is_over:
            self._spans.open_epoch(self)

    def open_loader(self, loader: Iterable[Any]) -> Any:
        """Return what is to be iterated in the place of `loader`; tells its sampler the epoch."""
        if self._spans.epoch is None:
            return loader
        place = {"epoch": self.epoch, "step": self._spans.step}
        loader = self._spans.emitter.transform("loader_opened", loader, **place)
        tell_samplers(loader, self.epoch)
        return loader

    def end_epoch(self, results: Mapping[str, Any] | None = None, *, complete: bool = True) -> None:
        """Emit `epoch_finished`, or `epoch_interrupted` where a `Stop` left work undone.

        Parameters
        ----------
        results
            What the framework itself computed over the epoch, by key. A mean of what the steps
            recorded comes before one of the same key.
        complete
            False where not all of its data was gone through.
        """
        spans = self._spans
        self.leave_step()
        if spans.epoch is not None:
            told = {**spans.epoch.means, **spans.epoch.validations}
            new = {key: value for key, value in (results or {}).items() if key not in told}
            spans.epoch.record(new)
            if not complete:
                spans.note_undone()
            spans.epoch.close(Ending.COMPLETED)

    # -- a step

    def load_batch(self, batch: Any, wait_s: float | None = None) -> Any:
        """Offer a micro-batch to the handlers; return what is to be trained on.

        `wait_s` is the host time that the framework waited for it, where that is known.
        """
        span, spans = self._open_step(), self._spans
        if span is None:
            return batch
        if wait_s is not None:
            span.data_wait_s = wait_s + (span.data_wait_s or 0.0)
        spans.counts.batch_index += 1
        spans.place.read += 1
        batch = spans.emitter.transform(
            "batch_loaded",
            batch,
            epoch=self.epoch,
            step=span.step,
            batch_index=spans.counts.batch_index,
        )
        self._enter(Body(batch))
        return batch

    def begin_step(self) -> None:
        """Emit `batch_started`, in a loop whose steps take no data."""
        if self._open_step() is not None:
            self._enter(Body(has_batch=False))

    def _open_step(self) -> BatchSpan | None:
        if self._spans.batch is None and (self.is_over or self._spans.cut() is not None):
            self._pass_over()
        if self._passes_over:
            return None
        if self._spans.batch is None:
            self._ended = 0
        return self._spans.batch or self._spans.open_batch(self)

    def _enter(self, body: Body) -> None:
        span = self._spans.batch
        assert span is not None
        if span.bodies:
            self._leave_out()
        elif not self._is_refused():
            self._spans.emitter.emit("batch_started", epoch=self.epoch, step=span.step)
            self._is_refused()
        if not self._passes_over:
            span.enter(body, boundary=False)

    def _leave_out(self) -> None:
        """Pass over a micro-batch that is to be skipped; the step goes on with the others."""
        if self._spans.skips():
            self._passes_over = True
            self._spans.emitter.pending.end((SkipBatch,))  # which is not for the whole step

    def _is_refused(self) -> bool:
        span, pending = self._spans.batch, self._spans.pending()
        answer = pending.skip or self._spans.cut()
        if answer is None or span is None:
            return False
        span.skip(answer.reason)
        self._passes_over = True
        return True

    def _pass_over(self) -> None:
        self._passes_over = True
        if self.stop is not None:
            self.say(f"{self.framework} goes on after a Stop: it takes no further optimizer step")

    @property
    def passes_over(self) -> bool:
        """True where no handler wants the micro-batch under way: nothing of it is to stay."""
        return self._passes_over

    def gradients_ready(self, loss: Any = None) -> bool:
        """Emit `backward_finished`; say whether the optimizer is to step.

        Before each optimizer step, with the gradients there. A second call within a step tells no
        handler: what steps several optimizers in one step is one step.
        """
        span = self._spans.batch
        if span is None:
            return not self._passes_over
        if not span.boundary:
            span.boundary = True
            self._tell_of_gradients(span, loss)
        elif self.is_heard("backward_finished"):
            self.say(
                f"{self.framework} steps optimizers several times in one step of the run: handlers "
                "of backward_finished see the gradients before the first time alone"
            )
        return not span.told_to_skip

    def _tell_of_gradients(self, span: BatchSpan, loss: Any) -> None:
        if not span.told_to_skip:
            place = {"epoch": self.epoch, "step": span.step}
            told = {} if loss is None else {"loss": detached(loss)}
            answers = self._spans.emitter.emit("backward_finished", **place, **told)
            span.told_to_skip = answers.skip is not None

    def record(self, **values: Any) -> None:
        """Keep metrics and fields of the micro-batch under way; as `Run.report` does."""
        if not self._passes_over and self._spans.batch is not None:
            self._spans.batch.record(values)

    def end_batch(self, *, boundary: bool | None = None) -> None:
        """The micro-batch is over; where `gradients_ready` was called in it, the step is.

        Parameters
        ----------
        boundary
            True where the step is over although its gradients were not told of.
        """
        self._passes_over, span = False, self._spans.batch
        if span is not None:
            self._ended += 1
            span.boundary = span.boundary or bool(boundary)
            span.leave()
            if self._spans.batch is None:
                self._longest = max(self._longest, self._ended)

    def skip_step(self, reason: str) -> None:
        """The framework itself passes over the step under way."""
        if not self._passes_over and self._spans.batch is not None:
            self._spans.batch.skip(reason)

    def leave_step(self) -> bool:
        """The framework ends its work on micro-batches that no step used up; say if there are any.

        They are told as skipped: before the validation that comes after them, or the next epoch.
        """
        self._passes_over, span = False, self._spans.batch if self.is_open else None
        if span is not None:
            span.close(Ending.LEFT)
        return span is not None

    # -- a validation

    def begin_validation(self, name: str = "val") -> None:
        """Emit `validation_started`; all of it is silent once a `Stop` is pending.

        Nothing where no run is open: what a framework validates outside of a training is no part of
        one. A step under way goes on after it.
        """
        if self.is_open:
            self._spans.open_validation(name, self)

    def begin_validation_batch(self, batch: Any, wait_s: float = 0.0) -> None:
        """A batch of the validation is about to be worked on."""
        if self.in_validation:
            self._validation.enter(batch, wait_s)

    def end_validation_batch(self, **values: Any) -> None:
        """Emit `validation_batch_finished` with these metrics and fields, as `Run.report` takes."""
        if self.in_validation:
            self._validation.record(values)
            self._validation.leave(Ending.COMPLETED)

    def end_validation(
        self, results: Mapping[str, Any] | None = None, *, complete: bool = True
    ) -> None:
        """Emit `validation_done`, or `validation_interrupted` where it was cut short.

        Parameters
        ----------
        results
            By key, without the name of the validation. They take the place of means of the same
            key, for a framework says in them what it itself computed.
        complete
            False where a `Stop` kept it from going through its data.
        """
        if self.in_validation:
            span = self._validation
            span.was_cut = not complete
            span.settle(results or {})
            span.close(Ending.COMPLETED)

    @property
    def _validation(self) -> ValidationSpan:
        span = self._spans.validation
        assert span is not None
        return span
