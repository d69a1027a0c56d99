"""A typed program, as a user would write it: mypy and pyright accept each line."""

from __future__ import annotations

from collections.abc import Mapping

from eventbus import Answers, Emitter, EventBus, Stop, every, handles, signal
from eventbus.signals import batch_finished, epoch_finished


@signal(clock="step")
def sample_drawn(*, step: int, text: str = "") -> None:
    """A sample was drawn from the model."""


class Patience:
    """Stops after `patience` epochs."""

    def __init__(self, patience: int) -> None:
        self.patience = patience

    @handles("epoch_finished")
    def decide(self, epoch: int) -> Stop | None:
        """Return a `Stop` when it is time."""
        return Stop("enough") if epoch > self.patience else None


def train(bus: EventBus) -> str:
    """Emit as a hot loop does; return why it stopped."""
    loop: Emitter = bus.bind(sender="train", model=object())
    answers: Answers = loop.emit(batch_finished, epoch=1, step=1, loss=0.5)
    bus.emit(epoch_finished, epoch=1, step=1, metrics={"loss": 0.5})
    bus.emit(sample_drawn, step=1, text="to be")
    bus.signal(sample_drawn).emit(step=2)
    loop.signal(sample_drawn).emit(step=3)
    return answers.stop.reason if answers.stop is not None else "completed"


def set_up() -> EventBus:
    """Subscribe in each of the ways there are."""
    bus = EventBus()

    @bus.on("batch_finished", when=every(100) & (lambda step: step > 0))
    def log_loss(step: int, loss: float) -> None: ...

    @bus.declare
    def mine(*, number: int) -> None:
        """One of mine."""

    @bus.declare(clock="number")
    def clocked(*, number: int) -> None:
        """One of mine, with a clock."""

    bus.on(mine, clocked)(lambda number: None)
    bus.emit(mine, number=3)
    log_loss(step=1, loss=0.5)
    with bus.attach(Patience(3), when=every(2)) as handle:
        handle.detach()
    return bus


def metrics_of(metrics: Mapping[str, float]) -> float:
    """Stay an ordinary function after subscribing."""
    return metrics["loss"]


def subscribed() -> float:
    """Show that `on` returns what it got, with its type."""
    same = EventBus().on("epoch_finished")(metrics_of)
    return same({"loss": 0.5})
