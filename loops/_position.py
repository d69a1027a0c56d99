"""How far a run has come, as a checkpoint keeps it, and where a resumed run goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from eventbus.loops._metrics import settled

if TYPE_CHECKING:
    from eventbus.loops._spans import Spans

__all__ = ["Position"]

log = logging.getLogger("eventbus.loops")


class Position:
    """Speaks for the loop itself: its counts, its last metrics, and the place in its epoch.

    Parameters
    ----------
    spans
        Where the run is.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._ahead: Mapping[str, Any] = {}  # in the epoch that a resumed run is to go on with

    @property
    def is_exact(self) -> bool:
        """False where a run that went on from the state as it is now would not go on as this one.

        That is within a step once its body was entered: it would be entered again, and what it has
        changed without the optimizer (BatchNorm's averages) twice. And it is after a step that was
        reported, as long as a validation in its body is not done, for the body is not entered
        again; and where the epoch is to end with this very step, which then is the last one or none
        at all. With several ranks it is not asked: they would have to agree.
        """
        spans = self._spans
        if spans.ranks is not None:
            return True
        if spans.batch is None:
            return not spans.place.done.undone
        return spans.batch.bodies == 0 and spans.pending().stop_epoch is None

    def state(self) -> dict[str, Any]:
        """Return it in tensors and plain Python.

        `position` says how far the epoch under way has come; `epoch` 0 there: none is under way.
        """
        spans = self._spans
        epoch = spans.epoch or spans.interrupted
        is_left = spans.batch is None and epoch is not None and epoch.stop_epoch is not None
        position = {"epoch": spans.counts.under_way, **spans.place.state(is_left)}
        if epoch is not None:
            position["so_far"] = epoch.state()
        else:  # restored, and its epoch not come to yet; the place itself may have moved on
            kept = ("epoch", "so_far")
            position |= {key: self._ahead[key] for key in kept if key in self._ahead}
        last = {key: settled(value) for key, value in spans.last.items()}
        state = {**spans.counts.state(), "last": last, "position": position}
        if spans.is_in_body:
            spans.frozen.look()
        frozen = spans.frozen.state()
        return {**state, "frozen": frozen} if frozen else state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, here or by another loop."""
        spans = self._spans
        spans.counts.restore(state)
        spans.last.update(state.get("last", {}))
        spans.frozen.restore(state.get("frozen", {}))
        self._ahead = state.get("position", {})
        if self._ahead:
            spans.place.restore(self._ahead, spans.counts.steps_done)
            if spans.place.has_some_behind:
                spans.redone.note()

    # -- in a resumed run

    @property
    def is_within_epoch(self) -> bool:
        """True where the first epoch of a resumed run has begun before."""
        return bool(self._ahead.get("epoch"))

    @property
    def is_reached(self) -> bool:
        """False outside of epochs, before the loop over them, in a run resumed within an epoch."""
        return self._spans.epoch is not None or not self.is_within_epoch

    def take(self, epoch: int) -> Mapping[str, Any] | None:
        """Return what the epoch that begins has come to before; None where it begins anew."""
        ahead, self._ahead = self._ahead, {}
        return ahead.get("so_far", {}) if ahead.get("epoch") == epoch else None

    def passes_over_batches(self, loader: Iterable[Any]) -> bool:
        """Tell whether the pass over data that is about to begin was done before the checkpoint."""
        spans = self._spans
        if self.is_reached:
            return spans.place.passes_over(loader, in_epoch=spans.epoch is not None)
        log.warning(
            "the checkpoint was saved within epoch %d, and batches come before the loop over "
            "epochs: that epoch will begin anew",
            self._ahead["epoch"],
        )
        self.forget()
        return False

    def forget(self, *, as_done: bool = False) -> bool:
        """Begin the epoch under way anew, or count it as done; say whether there is one."""
        counts = self._spans.counts
        epoch, self._ahead = self._ahead.get("epoch", 0), {}
        self._spans.place.begin()
        if epoch and as_done:
            counts.epoch = counts.epochs_done = epoch
        return bool(epoch)
