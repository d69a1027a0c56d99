"""The loop over the batches of a validation; an iterator object, as that over epochs is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from eventbus.loops._closing import Ending
from eventbus.loops._loader import END, Reader

if TYPE_CHECKING:
    from eventbus.loops._spans import Spans
    from eventbus.loops._validation import ValidationSpan

__all__ = ["Validation"]

T = TypeVar("T")


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
                raise RuntimeError(_is_inside(self._name, held.name))
            self._span = held
        else:
            name = "val" if self._name is None else self._name
            self._span = spans.open_validation(name, self)
        self._cut_short(self._span)
        if self._span.is_behind or not self._is_over:
            self._span.open_loader(self._loader)
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
        stop = self._spans.pending().stop
        if span.is_behind:
            self._is_over = not span.is_gone_through
        elif stop is not None and not self._reader.is_known_to_have_ended():
            span.was_cut = self._is_over = True
            self._spans.note_undone()
            self._spans.hints.gave_none(span.name, stop)

    def _end(self, span: ValidationSpan) -> None:
        self._is_over = True
        if self._spans.validation is span and not span.held:
            span.close(Ending.COMPLETED)


def _is_inside(name: str | None, held: str) -> str:
    return (
        f"validation {name!r} inside validation {held!r}: leave name= out to have its batches be "
        f"a part of {held!r}, or move it behind the `with` block of that one"
    )
