"""Where a run is: the counts that its signals carry and its checkpoints keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Counts"]


@dataclass
class Counts:
    """What has been counted so far.

    Attributes
    ----------
    epoch : int
        The epoch under way, or the last one that was; 0 before the first and without epochs.
    epochs_done : int
        Finished epochs. An interrupted one is not done: a resumed run goes on with it.
    steps_done : int
        Finished optimizer steps.
    rounds : dict
        Finished validations, by name.
    batch_index : int
        Micro-batches that came out of the loader in this epoch.
    epochs_before, steps_before : int
        Those that were done when the run started: 0, but where it was resumed.
    """

    epoch: int = 0
    epochs_done: int = 0
    steps_done: int = 0
    rounds: dict[str, int] = field(default_factory=dict)
    batch_index: int = 0
    epochs_before: int = 0
    steps_before: int = 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, in plain Python."""
        return {
            "epoch": self.epochs_done,
            "step": self.steps_done,
            "rounds": dict(self.rounds),
        }

    def start(self) -> None:
        """The run starts; what is done by then was done in an earlier life."""
        self.epochs_before, self.steps_before = self.epochs_done, self.steps_done

    @property
    def under_way(self) -> int:
        """The epoch that has begun and is not done; 0 where there is none."""
        return self.epoch if self.epoch != self.epochs_done else 0

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the last finished epoch and step of `state`, made here or by another loop."""
        self.epoch = self.epochs_done = state["epoch"]
        self.steps_done = state["step"]
        self.rounds = dict(state.get("rounds", {}))
        self.batch_index = 0
