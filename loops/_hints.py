"""What a run says, once, of a loop that looks as if it were not what its author wanted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus.loops._batch import BatchSpan
    from eventbus.loops._spans import Spans

__all__ = ["Hints"]

log = logging.getLogger("eventbus.loops")


class Hints:
    """The warnings of one run, each kind of them given once.

    Parameters
    ----------
    spans
        Where the run is.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._given: set[str] = set()

    def all_done(self, what: str, asked: int, done: int, before: int) -> None:
        """A loop has nothing to do, for its number counts all of the Run.

        Nothing where it was done in an earlier life, or a `Stop` is pending.

        Parameters
        ----------
        what
            "epochs" or "steps".
        asked, done, before
            What the loop is to do, what is done, and what of it was done as the run started.
        """
        if asked and done > before and self._spans.pending().stop is None:
            self._give(
                what,
                f"run.{what}({asked}) has nothing to do: it counts all {what} of the Run, which "
                f"has done {done} (run.{what}({done + asked}) for {asked} more, or another Run)",
            )

    def used_up(self, loader: Any) -> None:
        """A pass over data that has given batches before gave none."""
        epoch = self._spans.counts.epoch
        place = "a pass over the data" if self._spans.epoch is None else f"epoch {epoch}"
        self._give(
            "data",
            f"{place} had no batch: the {type(loader).__name__} that run.batches was given seems "
            "to be used up; a list or a DataLoader begins anew",
        )

    def stepped(self, batch: BatchSpan) -> None:
        """An optimizer has stepped in a batch that is to be skipped."""
        why = "the loop had said run.skip(...): `run.skip(...); continue`"
        if not batch.own_reason:
            why = (
                'a handler had answered SkipBatch: `if run.emit("backward_finished", ...).skip: '
                "optimizer.zero_grad(); continue`"
            )
        self._give(
            "skip",
            f"an optimizer stepped in step {batch.step}, which counts as skipped, although {why}",
        )

    def _give(self, kind: str, message: str) -> None:
        if kind not in self._given:
            self._given.add(kind)
            log.warning(message)
