"""Signals as declarations: an editor completes the fields, and mypy rejects a wrong one.

It declares a signal of its own, and shows what a misspelt field says when it runs unchecked.
Run it with: python examples/typed_emit.py; check it with: mypy --strict examples/typed_emit.py
"""

from __future__ import annotations

from typing import Any

from eventbus import EventBus, FieldError, every, signal
from eventbus.signals import batch_finished, epoch_finished


@signal(clock="step")
def sample_drawn(*, step: int, text: str, temperature: float = 1.0) -> None:
    """A sample was drawn from the model. After each epoch."""


def train(bus: EventBus) -> None:
    """Emit as a training loop does; each call is checked against the signal's declaration."""
    loop = bus.bind(sender="train")
    finished = bus.signal(batch_finished)  # looked up once, for a hot loop: typed as well
    for step in range(1, 7):
        finished.emit(epoch=1, step=step, loss=1 / step)
    loop.emit(epoch_finished, epoch=1, step=6, metrics={"loss": 0.41})
    loop.emit(sample_drawn, step=6, text="to be or not to be")


def attach_handlers(bus: EventBus) -> None:
    """Subscribe to the declarations: they stand wherever a signal's name may stand."""

    @bus.on(batch_finished, when=every(3))
    def show_loss(step: int, loss: float) -> None:
        print(f"step {step}: loss {loss:.3f}")

    @bus.on(sample_drawn)
    def show_sample(text: str, temperature: float = 1.0) -> None:
        print(f"sample at temperature {temperature}: {text}")


def main() -> None:
    """Emit what is right, then what mypy would have found: `lss`, from a dict without types."""
    bus = EventBus(strict=True)
    attach_handlers(bus)
    train(bus)
    unchecked: dict[str, Any] = {"epoch": 1, "step": 7, "lss": 0.1}
    try:
        bus.emit("batch_finished", **unchecked)
    except FieldError as error:
        print("a wrong field:", error)


if __name__ == "__main__":
    main()
