"""How a Trainer is brought to end its fit, or an epoch of it, where handlers want that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus.loops._lightning_trainer import is_at_end

if TYPE_CHECKING:
    from lightning import Trainer

    from eventbus.loops._relay import Relay

__all__ = ["Stopping"]


class Stopping:
    """Has a Trainer do what the answers want.

    Attributes
    ----------
    is_cut : bool
        The epoch under way was ended before its data.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._borrows = False  # it was told to stop, for as long as it validates
        self.is_cut = False

    def begin_epoch(self) -> None:
        """Nothing is cut yet."""
        self.is_cut = False

    def obey(self, trainer: Trainer) -> None:
        """End the fit where the run is over."""
        if self._relay.is_over:
            trainer.should_stop = True

    def cut(self, trainer: Trainer, *, validates: bool = True) -> None:
        """End the epoch after this batch, and validate unless the run is to stop.

        Lightning leaves an epoch at its last batch, or where it is to stop; it validates within if
        one is due, or where it is to stop: for that long, it is told so.
        """
        loop = trainer.fit_loop.epoch_loop
        if not self._relay.is_epoch_over or is_at_end(trainer):
            return
        self.is_cut = loop.batch_progress.is_last_batch = True
        if not self._relay.is_over:
            loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
            self._borrows = validates and not trainer.should_stop
            trainer.should_stop = trainer.should_stop or validates

    def give_back(self, trainer: Trainer) -> None:
        """Have it go on after the validation."""
        if self._borrows:
            self._borrows = trainer.should_stop = False

    def end_epoch(self, trainer: Trainer) -> None:
        """The epoch is over, validated or not."""
        has_not_validated = self._borrows
        self.give_back(trainer)
        if self.is_cut and (has_not_validated or self._relay.stop is not None):
            # Else schedulers would be stepped that wait for a metric of a validation.
            trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = False
