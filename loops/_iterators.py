"""The loops of a run, as iterator objects.

Not generators: a generator that is being closed swallows exceptions, Ctrl-C too, and cannot tell
`break` from failure. `StopIteration` is raised here in one way only, at the end of `__next__`; the
loader's own is caught where the loader is read, and one that leaks from a handler reaches the bus
first, which makes a RuntimeError of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from eventbus.loops._batch import BatchSpan, Body
from eventbus.loops._closing import Ending
from eventbus.loops._loader import END, Reader
from eventbus.loops._pass import Pass

if TYPE_CHECKING:
    from eventbus.answers import Request
    from eventbus.loops._spans import Spans
    from eventbus.loops._validation import ValidationSpan

__all__ = ["Batches", "Epochs", "Steps", "Validation"]

T = TypeVar("T")


class Epochs(Iterator[int]):
    """The numbers of the epochs that are still to be done; made by `run.epochs`."""

    def __init__(self, spans: Spans, epochs: int) -> None:
        self._spans = spans
        self._epochs = epochs
        self._is_over = False
        spans.watch(self)

    def __next__(self) -> int:
        spans = self._spans
        spans.start(epochs=self._epochs)
        spans.close_left()
        self._check_alone()
        spans.end_body_of_epochs(self)
        if not self._is_over and self._begin():
            return spans.counts.epoch
        self._is_over = True
        raise StopIteration

    def _check_alone(self) -> None:
        epoch = self._spans.epoch
        if epoch is not None and epoch.owner() is not self:
            raise RuntimeError(
                f"run.epochs() inside run.epochs(), of which epoch {self._spans.counts.epoch} is "
                "open: one Run has one loop over epochs; open another Run, with a name=, inside it"
            )

    def _begin(self) -> bool:
        spans = self._spans
        if spans.counts.epochs_done >= self._epochs:
            return False
        if spans.ranks is not None:
            spans.ranks.before_epoch()
        if spans.pending().stop:
            return False
        spans.open_epoch(self)
        if not spans.pending().stop:
            return True
        spans.note_undone()
        spans.end_body_of_epochs(self)
        return False

    def __len__(self) -> int:
        return max(0, self._epochs - self._spans.counts.epochs_done)


class Steps(Pass, Iterator[int]):
    """The numbers of the steps that are still to be done; made by `run.steps`."""

    def __init__(self, spans: Spans, steps: int) -> None:
        super().__init__(spans)
        self._steps = steps

    def __next__(self) -> int:
        spans = self._spans
        spans.start(steps=self._steps)
        spans.end_body_of_steps(self, "run.steps()")
        if not self._has_begun:
            self._begin()
        while self._goes_on():
            span = spans.open_batch(self)
            if _announce(spans, span, None, spans.emitter.pending.answered):
                span.enter(Body(has_batch=False), boundary=True)
                return span.step
        raise StopIteration

    def _goes_on(self) -> bool:
        done = self._spans.counts.steps_done >= self._steps
        if not self._is_over and (done or self._spans.cut()):
            self._end(done)
        return not self._is_over

    def __len__(self) -> int:
        return max(0, self._steps - self._spans.counts.steps_done)


class Batches(Pass, Iterator[T], Generic[T]):
    """The batches of one pass over a loader; made by `run.batches`."""

    def __init__(self, spans: Spans, loader: Iterable[T], accumulate: int) -> None:
        super().__init__(spans)
        self._loader = loader
        self.accumulate = accumulate
        self._reader: Reader | None = None

    def __next__(self) -> T:
        spans = self._spans
        if not spans.is_under_way:
            spans.start()
        if self._reader is None:
            self._check_alone()
        spans.end_body_of_steps(self, "run.batches()")
        while self._goes_on():
            read = self._read()
            if read is not END:
                batch, is_given = self._give(read)
                if is_given:
                    return batch
        raise StopIteration

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # TypeError if it has none, as it should

    def _check_alone(self) -> None:
        batch = self._spans.batch
        if batch is not None and type(batch.owner()) is Steps:
            raise RuntimeError("run.batches() inside run.steps(): both count steps")

    def _goes_on(self) -> bool:
        """The safe point before a batch is loaded."""
        if self._reader is not None and self._spans.heeded.quiet:  # as it is for nearly each step
            return True
        if self._is_over or self._is_cut():
            return False
        if self._reader is None:
            if self._spans.passes_over_batches():
                self._is_over = True
                return False
            self._open()
            return not self._is_cut()
        return True

    def _open(self) -> None:
        spans = self._spans
        self._begin()
        if spans.epoch is None:
            spans.counts.batch_index = spans.place.start
        epoch = spans.counts.epoch
        loader = spans.emitter.transform(
            "loader_opened", self._loader, epoch=epoch, step=spans.step
        )
        self._reader = spans.place.open(loader, epoch if spans.epoch is not None else 0)
        if spans.ranks is not None:
            spans.ranks.open_data(self._reader, self.accumulate)

    def _is_cut(self) -> bool:
        # Micro-batches that are accumulated are first brought to their end: a step of fewer would
        # be another one than that of a run that nothing stops.
        if self._spans.batch is not None or self._spans.cut() is None:
            return False
        self._end(done=self._has_come_to_the_end())
        return True

    def _has_come_to_the_end(self) -> bool:
        reader = self._reader
        if reader is None or not self._spans.place.is_used_up:  # the last batch was refused
            return False
        # The end is read, too: a loader with a state is to know that it has come to it.
        return reader.is_known_to_have_ended() and reader.next() is END

    def _end(self, done: bool) -> None:
        super()._end(done)
        self._reader = None  # ends a DataLoader's workers
        spans = self._spans
        if spans.batch is not None:
            spans.batch.close(Ending.COMPLETED)
        if done or spans.pending().stop is None:
            spans.place.end_pass(in_epoch=spans.epoch is not None, at_end=done)

    def _read(self) -> Any:
        assert self._reader is not None
        batch = self._reader.next()
        if self._spans.ranks is not None:
            batch = self._spans.ranks.read(batch)
        if batch is END:
            self._end(done=True)
        return batch

    def _give(self, batch: Any) -> tuple[T, bool]:
        """Offer a batch to the handlers; say whether the loop is to have it."""
        assert self._reader is not None
        spans, counts = self._spans, self._spans.counts
        late, answered = spans.cut(), spans.emitter.pending.answered
        span = spans.batch or spans.open_batch(self)
        span.data_wait_s = self._reader.take_wait() + (span.data_wait_s or 0.0)
        counts.batch_index += 1
        spans.place.read += 1
        batch = spans.emitter.transform(
            "batch_loaded",
            batch,
            epoch=counts.epoch,
            step=span.step,
            batch_index=counts.batch_index,
        )
        is_given = not spans.skips() if span.bodies else _announce(spans, span, late, answered)
        if is_given:
            span.enter(Body(batch), self.accumulate == 1 or self._is_boundary(span))
        return batch, is_given

    def _is_boundary(self, span: BatchSpan) -> bool:
        assert self._reader is not None
        return span.bodies + 1 >= self.accumulate or self._reader.is_last()


class Validation(Iterator[T], Generic[T]):
    """The batches of one validation; made by `run.validate`."""

    def __init__(self, spans: Spans, loader: Iterable[T], name: str | None) -> None:
        self._spans = spans
        self._name = name
        self._reader = Reader(loader)
        self._loader = loader
        self._span: ValidationSpan | None = None
        self._is_over = False
        spans.watch(self)

    def __next__(self) -> T:
        span = self._begin() if self._span is None else self._go_on(self._span)
        batch: Any = END if self._is_over else self._reader.next()
        if batch is END:
            self._end(span)
            raise StopIteration
        span.enter(batch, self._reader.take_wait())
        return cast("T", batch)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # TypeError if it has none, as it should

    def _begin(self) -> ValidationSpan:
        spans = self._spans
        held = spans.validation
        if held is not None and held.held:
            if self._name not in (None, held.name):
                raise RuntimeError(f"validation {self._name!r} inside validation {held.name!r}")
            self._span = held
        else:
            name = "val" if self._name is None else self._name
            self._span = spans.open_validation(name, self)
        self._cut_short(self._span)
        return self._span

    def _go_on(self, span: ValidationSpan) -> ValidationSpan:
        if self._spans.validation is not span:
            self._is_over = True  # something else on the Run has closed it
        if not self._is_over:
            span.leave(Ending.COMPLETED)
            self._cut_short(span)
        return span

    def _cut_short(self, span: ValidationSpan) -> None:
        """The safe point before a validation batch is loaded."""
        if span.is_behind:
            self._is_over = True
        elif self._spans.pending().stop and not self._reader.is_known_to_have_ended():
            span.was_cut = self._is_over = True
            self._spans.note_undone()

    def _end(self, span: ValidationSpan) -> None:
        self._is_over = True
        if self._spans.validation is span and not span.held:
            span.close(Ending.COMPLETED)


def _announce(spans: Spans, span: BatchSpan, late: Request | None, answered: int) -> bool:
    """Tell that a step begins, unless an answer is against it; say whether its body may run.

    A `Stop` from elsewhere that came since the batch began to load is not against it: what loading
    has drawn from the random generators would be drawn a second time where the run goes on.

    Parameters
    ----------
    late, answered
        What would have cut the loop when the batch was there, and how often handlers had answered.
    """
    heeded = spans.heeded
    if not heeded.quiet and _is_refused(spans, span, late, answered):
        return False
    spans.emitter.emit("batch_started", epoch=spans.counts.epoch, step=span.step)
    return heeded.quiet or not _is_refused(spans, span, late, answered)


def _is_refused(spans: Spans, span: BatchSpan, late: Request | None, answered: int) -> bool:
    answer: Request | None = spans.pending().skip
    if answer is None and spans.emitter.pending.answered > answered:
        cut = spans.cut()
        answer = None if cut is late else cut
    if answer is not None:
        span.skip(answer.reason)
    return answer is not None
