"""blinker."""

from __future__ import annotations

from collections.abc import Callable

import blinker

from benchmarks.by_hand import Handler, handlers_taking
from benchmarks.rivals import Rival


def dispatch(handlers: int, every: int | None) -> Callable[[int], None]:
    """Emit by `signal.send`."""
    signal = blinker.Signal()
    for handler in handlers_taking("step, loss", handlers):
        signal.connect(_receiver(handler, every), weak=False)

    def emissions(count: int) -> None:
        for step in range(1, count + 1):
            signal.send("train", epoch=1, step=step, loss=0.5)

    return emissions


def _receiver(handler: Handler, every: int | None) -> Callable[..., None]:
    def receive(sender: str, step: int, loss: float, **others: object) -> None:
        pass

    def receive_when_due(sender: str, step: int, loss: float, **others: object) -> None:
        if step % every == 0:  # type: ignore[operator]
            handler(step, loss)

    return receive if every is None else receive_when_due


RIVAL = Rival(
    "blinker",
    "blinker",
    "blinker",
    "receivers take the sender and swallow the fields that they do not want; it has no filters, so"
    " the `if` is in the receiver",
    dispatch,
)
