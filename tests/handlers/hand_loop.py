"""A loop written by hand, whose weight is a known function of what it has done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eventbus import Emitter, EventBus, RestoredState, State
from eventbus.handlers import Checkpoint


class Killed(BaseException):
    """The process is gone."""


class Training:
    """Trains by the bus alone; answers for its state."""

    def __init__(self, bus: EventBus, **context: Any) -> None:
        self.bus = bus
        self.weight = torch.zeros(3)
        self.epoch = 0
        self.extra: Any = None
        self.resumed_from: str | None = None
        self.loop: Emitter = bus.bind(sender=context.pop("sender", "train"), **context)

    def give(self) -> list[State]:
        parts = [State("model", {"weight": self.weight}), State("loop", {"epoch": self.epoch})]
        return parts if self.extra is None else [*parts, State("extra", self.extra)]

    def take(self, state: RestoredState) -> None:
        if "model" in state:
            self.weight = state.take("model")["weight"].clone()
            self.epoch = state.take("loop")["epoch"]

    def run(
        self,
        epochs: int,
        metrics: Callable[[int], Mapping[str, float]] = lambda epoch: {"val_loss": 1 / epoch},
        fail_after: int | None = None,
    ) -> Training:
        """Train; `fail_after` that epoch the run fails. Closed as a loop closes it."""
        given_, taken = self.give, self.take
        self.bus.on("state_requested", name="loop")(given_)
        self.bus.on("state_restored", name="loop")(taken)
        outcome = "failed"
        try:
            self._open(epochs)
            self._train(epochs, metrics, fail_after)
            outcome = "completed"
        except Killed:
            pass
        finally:
            self.loop.emit("run_closed", outcome=outcome)
            self.bus.detach(given_)
            self.bus.detach(taken)
        return self

    def _open(self, epochs: int) -> None:
        restored = self.loop.emit("run_opened").restored
        fields = {} if restored is None else {"resumed_from": restored.path}
        self.resumed_from = fields.get("resumed_from")
        self.loop.emit("run_started", epochs=epochs, **fields)

    def _train(
        self, epochs: int, metrics: Callable[[int], Mapping[str, float]], fail_after: int | None
    ) -> None:
        while self.epoch < epochs:
            self.epoch += 1
            self.weight = self.weight * 1.5 + self.epoch
            self.loop.emit(
                "epoch_finished",
                epoch=self.epoch,
                step=10 * self.epoch,
                metrics=metrics(self.epoch),
            )
            if self.epoch == fail_after:
                raise Killed
        self.loop.emit("run_finished", reason="completed", epoch=self.epoch, step=10 * self.epoch)


def train(directory: Path, epochs: int = 5, **arguments: Any) -> Checkpoint:
    """Run one fresh training with a checkpoint handler; return the handler."""
    metrics = arguments.pop("metrics", lambda epoch: {"val_loss": 1 / epoch})
    checkpoint = Checkpoint(directory, **arguments)
    bus = EventBus()
    bus.attach(checkpoint)
    Training(bus).run(epochs, metrics)
    return checkpoint


def epochs_in(directory: Path) -> list[int]:
    return [saved.manifest.epoch or 0 for saved in Checkpoint.saved(directory)]


def sequence_of(values: Sequence[float]) -> Callable[[int], Mapping[str, float]]:
    return lambda epoch: {"val_loss": values[epoch - 1]}
