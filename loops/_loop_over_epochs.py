"""The loop over epochs, as an iterator object.

The loops of a run are not generators: a generator that is being closed swallows exceptions, Ctrl-C
too, and cannot tell `break` from failure. `StopIteration` is raised in one way only, at the end of
`__next__`; the loader's own is caught where the loader is read, and one that leaks from a handler
reaches the bus first, which makes a RuntimeError of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventbus.loops._spans import Spans

__all__ = ["Epochs"]


class Epochs(Iterator[int]):
    """The numbers of the epochs that are still to be done; made by `run.epochs`."""

    def __init__(self, spans: Spans, epochs: int) -> None:
        self._spans = spans
        self._epochs = epochs
        self._has_begun = self._is_over = False
        spans.watch(self)

    def __next__(self) -> int:
        spans = self._spans
        spans.start(epochs=self._epochs)
        spans.close_left()
        self._check_alone()
        spans.end_body_of_epochs(self)
        if not self._is_over and self._begin():
            self._has_begun = True
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
        spans, counts = self._spans, self._spans.counts
        if counts.epochs_done >= self._epochs:
            spans.place.done.meet_training()
            if not self._has_begun:
                done, before = counts.epochs_done, counts.epochs_before
                spans.hints.all_done("epochs", self._epochs, done, before)
            return False
        if spans.ranks is not None:
            spans.ranks.before_epoch()
        if spans.pending().stop:
            return False
        spans.open_epoch(self)
        if not spans.pending().stop:
            spans.place.draws.begin_body()
            return True
        spans.note_undone()
        spans.end_body_of_epochs(self)
        return False

    def __len__(self) -> int:
        return max(0, self._epochs - self._spans.counts.epochs_done)
