"""The validations of a Lightning fit: of several loaders each is one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventbus.loops._logged import read_output, split_by_loader, without_prefix

if TYPE_CHECKING:
    from lightning import Trainer

    from eventbus.loops._logged import Logged
    from eventbus.loops._relay import Relay

__all__ = ["Validations"]


class Validations:
    """Relays one validation after the other as Lightning goes through the loaders.

    Parameters
    ----------
    relay
        Where to tell.
    logged
        What the module logs.
    """

    def __init__(self, relay: Relay, logged: Logged) -> None:
        self._relay = relay
        self._logged = logged
        self._late: dict[str, Any] = {}
        self._loader = 0
        self._is_several = False
        self._was_cut = False

    def begin(self, trainer: Trainer) -> None:
        """Begin with the first of the loaders."""
        self._is_several = len(trainer.num_val_batches) > 1
        self._begin(0)

    def begin_batch(self, trainer: Trainer, batch: Any, loader: int) -> None:
        """Begin a batch, with the validation by the next loader where it is of that."""
        if loader != self._loader:
            self.end(trainer)
            self._begin(loader)
        self._was_cut = self._relay.stop is not None
        if not self._was_cut:
            self._relay.begin_validation_batch(batch)

    def end_batch(self, outputs: Any) -> None:
        """End a batch, with what the module returned."""
        if not self._was_cut:
            self._relay.end_validation_batch(**read_output(outputs))

    def end(self, trainer: Trainer) -> None:
        """End the validation, with what the module logged."""
        logged = self._logged.fresh(trainer)
        if self._is_several:  # what is logged for all of them belongs to none
            logged, rest = split_by_loader(logged, self._loader)
            self._late.update(rest)
        results = {} if self._was_cut else without_prefix(logged)
        self._relay.end_validation(results, complete=not self._was_cut)

    def take_late(self) -> dict[str, Any]:
        """Return what was logged for all loaders together since the last call: the epoch's."""
        late, self._late = self._late, {}
        return late

    def _begin(self, loader: int) -> None:
        self._loader, self._was_cut = loader, False
        self._relay.begin_validation(f"val_{loader}" if loader else "val")
