"""What the lessons share: short runs on nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.loops import Run


class BrokenError(Exception):
    """A handler or a loop failed."""


def train(bus: EventBus, val_losses: Sequence[float], losses: Sequence[Any] = (1.0, 1.0)) -> Run:
    """Train on nothing: an epoch for each validation loss, in it a batch for each of `losses`."""
    with Run(bus) as run:
        for epoch in run.epochs(len(val_losses)):
            for loss in run.batches(losses):
                if not run.emit("backward_finished", loss=loss).skip:
                    run.report(loss=loss)
            with run.validation():
                run.report(loss=val_losses[epoch - 1])
    return run


def fail(bus: EventBus, error: BaseException) -> Run:
    """Have the body of a loop raise."""
    with Run(bus) as run:
        for _ in run.epochs(1):
            raise error
    return run


def killed_then_resumed(
    folder: Path, make: Callable[[], Any], val_losses: Sequence[float], at: int, **options: Any
) -> tuple[Any, Run]:
    """Train with a handler, fail after epoch `at`, go on with a fresh handler; return those."""
    bus = EventBus()
    bus.attach(make())
    bus.attach(Checkpoint(folder))

    @bus.on("checkpoint_saved")
    def end(epoch: int) -> None:
        if epoch == at:
            raise BrokenError

    try:
        train(bus, val_losses, **options)
    except BrokenError:
        bus = EventBus()
    handler = make()
    bus.attach(handler)
    bus.attach(Checkpoint(folder, resume="auto"))
    return handler, train(bus, val_losses, **options)
