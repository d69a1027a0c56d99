"""What a run says, once, of a loop that looks as if it were not what its author wanted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from eventbus.loops._untold import take_untold

if TYPE_CHECKING:
    from eventbus.answers import Stop
    from eventbus.loops._batch import BatchSpan
    from eventbus.loops._spans import Spans

__all__ = ["Hints"]

BACKWARD = "backward_finished"

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
        self._ungiven: dict[str, str] = {}  # by validation, why it gave the body no batches

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

    def untold(self) -> None:
        """An epoch is over: a sampler may have given it the order of the one before."""
        if take_untold():
            self._give(
                "untold",
                "a ResumableSampler began the same order again, for nobody has told it the epoch: "
                "give run.batches the DataLoader itself, as in enumerate(run.batches(loader)), or "
                "call sampler.set_epoch(epoch) at the top of the body",
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

    def no_backward(self) -> None:
        """An epoch or so is over, and handlers that hear of gradients may have heard of none.

        Only where an optimizer has stepped: gradients may come later, or not in this run.
        """
        emitter = self._spans.emitter
        is_told = any(one.has_asked_for(BACKWARD) for one in (emitter, emitter.bus.root))
        if is_told or not self._spans.has_stepped:
            return
        receivers = [one.receiver for one in emitter.bus.signal(BACKWARD).plan(emitter)]
        subscriptions = [one.subscription for one in receivers if one is not None]
        waiting = {one.name: None for one in subscriptions if one.asked_for(BACKWARD)}
        if waiting:
            self._give(
                "backward",
                f"this loop emits no backward_finished; waiting for it: {', '.join(waiting)}; "
                'write `run.emit("backward_finished", loss=loss)` after `loss.backward()`',
            )

    def frozen(self) -> None:
        """The first step is finished; a resumed run may train others than the one before it did."""
        if differences := ", ".join(self._spans.frozen.take_differences()):
            self._give(
                "frozen",
                f"the run trains other parameters than the one that was saved: {differences} "
                "(unless this epoch wants it so: a resumed run does not come again to "
                "`if epoch == 3:`; `if epoch >= 3:` it does)",
            )

    def redone(self) -> None:
        """A loop begins in a resumed body; the code before it has been gone through again."""
        if changed := ", ".join(map(repr, self._spans.redone.take_changed())):
            self._give(
                "redone",
                f"the body has changed {changed} of state= since the checkpoint gave it back: the "
                "code before its loops is gone through again, and what was kept is lost (reset it "
                "at the end of the body, under `if not run.interrupted:`)",
            )

    def left_out(self, name: str, stop: Stop) -> None:
        """A validation that may be missed is left out, for a `Stop` is pending.

        Not where it came within the training of this epoch, which goes on in a resumed run; nor
        from outside, with an exit code: then there is no time for more.
        """
        epoch = self._spans.epoch
        if stop.exit_code is not None or self._spans.is_in_body:
            return
        if epoch is None:
            self._give(
                "after",
                f"validation {name!r} is left out: {stop.by} has stopped the run ({stop.reason}). "
                "What is to be measured after a stop comes after the `with Run` block",
            )
        elif epoch.validations and not epoch.was_cut:
            self._give(
                "beside",
                f"validation {name!r} of epoch {self._spans.counts.epoch} is left out, and the "
                f"epoch is not finished: {stop.by} has stopped the run ({stop.reason}). A handler "
                'that answers to epoch_finished, as EarlyStopping(..., on="epoch_finished"), lets '
                "all validations be done",
            )

    # -- what may have made a body fail

    def begin_epoch(self) -> None:
        """Whatever fails from here on has nothing to do with the epoch before."""
        self._ungiven = {}
        take_untold()

    def gave_none(self, name: str, stop: Stop | None) -> None:
        """A validation has no batches, or no more, for the body: it was done, or `stop` cut it."""
        result = f"run.metrics[{self._result_of(name)!r}]"
        self._ungiven[name] = (
            f"validation {name!r} was done before the checkpoint, so run.validate gave none of its "
            f"batches: take its result from {result}"
            if stop is None
            else f"run.validate gave not all batches of {name!r}, for {stop.by} had stopped the "
            f"run ({stop.reason}): what needs them goes under `if not run.interrupted:`, with "
            f"{result} as the result"
        )

    def _result_of(self, name: str) -> str:
        return next((key for key in self._spans.last if key.startswith(f"{name}_")), f"{name}_loss")

    def explain(self, error: BaseException) -> None:
        """Note on a failure in the body of an epoch which batches it may have missed."""
        if isinstance(error, Exception):
            for note in self._ungiven.values():
                error.add_note(note)

    def _give(self, kind: str, message: str) -> None:
        if kind not in self._given:
            self._given.add(kind)
            log.warning(message)
