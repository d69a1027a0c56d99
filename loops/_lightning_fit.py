"""What an emitter for Lightning keeps during one fit of a Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventbus.loops._lightning_steps import Steps
from eventbus.loops._lightning_stopping import Stopping
from eventbus.loops._lightning_validation import Validations
from eventbus.loops._logged import Logged

if TYPE_CHECKING:
    from torch import Tensor

    from eventbus.loops._relay import Relay

__all__ = ["Fit"]


class Fit:
    """What belongs to one fit of a Trainer, and to no other.

    Attributes
    ----------
    logged, steps, validations, stopping
        Those who translate what happens in it.
    is_new : bool
        No checkpoint of ours is behind it.
    random : Tensor or None
        The generator as it was before what a resumed fit would draw twice.
    """

    def __init__(self, relay: Relay) -> None:
        self.logged = Logged()
        self.steps = Steps(relay, self.logged)
        self.validations = Validations(relay, self.logged)
        self.stopping = Stopping(relay)
        self.is_new = True
        self.random: Tensor | None = None
