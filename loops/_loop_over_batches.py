"""The loop over the training batches of a loader; an iterator object, as that over epochs is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from eventbus.loops._batch import BatchSpan, Body
from eventbus.loops._closing import Ending
from eventbus.loops._loader import END, Reader
from eventbus.loops._loop_over_steps import Steps
from eventbus.loops._pass import Pass

if TYPE_CHECKING:
    from eventbus.loops._spans import Spans

__all__ = ["Batches"]

T = TypeVar("T")


class Batches(Pass, Iterator[T], Generic[T]):
    """The batches of one pass over a loader; made by `run.batches`."""

    def __init__(self, spans: Spans, loader: Iterable[T], accumulate: int) -> None:
        super().__init__(spans)
        self._loader = loader
        self.accumulate = accumulate
        self._reader: Reader | None = None
        self._has_given = False

    def __next__(self) -> T:
        spans = self._spans
        if not spans.is_under_way:
            spans.start()
        if self._reader is None:
            self._check_alone()
        spans.end_body_of_steps(self, "run.batches()")
        if self._is_new:
            self._look()
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
        if self._is_over or self._is_behind() or self._is_cut():
            return False
        if self._reader is None:
            self._open()
            return not self._is_cut()
        return True

    def _is_behind(self) -> bool:
        """Pass over what was done before the checkpoint, also where an answer ends the epoch."""
        spans = self._spans
        if self._reader is None and (spans.epoch is not None or spans.cut() is None):
            self._is_over = spans.position.passes_over_batches(self._loader)
        return self._is_over

    def _open(self) -> None:
        spans = self._spans
        self._begin()
        spans.hints.redone()
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
            spans.place.draws.end_loop()

    def _read(self) -> Any:
        assert self._reader is not None
        batch = self._reader.next()
        if self._spans.ranks is not None:
            batch = self._spans.ranks.read(batch)
        if batch is END:
            self._warn_if_used_up()
            self._end(done=True)
        elif not self._has_given:
            self._has_given = True
            self._spans.place.have_given.add(id(self._loader))
        return batch

    def _warn_if_used_up(self) -> None:
        assert self._reader is not None
        spans, reader = self._spans, self._reader
        has_given = id(self._loader) in spans.place.have_given
        is_empty = reader.read == 0 and reader.size is None
        if is_empty and has_given and spans.pending().stop is None:
            spans.hints.used_up(self._loader)

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
        is_given = not spans.skips() if span.bodies else self._announce(span, late, answered)
        if is_given:
            span.enter(Body(batch), self.accumulate == 1 or self._is_boundary(span))
        return batch, is_given

    def _is_boundary(self, span: BatchSpan) -> bool:
        assert self._reader is not None
        return span.bodies + 1 >= self.accumulate or self._reader.is_last()
