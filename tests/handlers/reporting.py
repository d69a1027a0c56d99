"""What the tests of the observers share: a clock to turn by hand, and runs that start or resume."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from eventbus import Emitter, EventBus, RestoredState


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class CountedMetrics(dict[str, Any]):
    """Metrics that count how often they are read."""

    reads = 0

    def items(self) -> Any:
        self.reads += 1
        return super().items()

    def __getitem__(self, name: str) -> Any:
        self.reads += 1
        return super().__getitem__(name)


def start(bus: EventBus, *, run_id: str = "one", **totals: int) -> Emitter:
    """Begin a run anew."""
    loop = bus.bind(sender="train", run_id=run_id)
    loop.emit("run_opened")
    loop.emit("run_started", **totals)
    return loop


def resume(bus: EventBus, state: Mapping[str, Any], *, run_id: str = "one") -> Emitter:
    """Begin a run from a checkpoint, as a restorer and a loop do together."""
    loop = bus.bind(sender="train", run_id=run_id)
    loop.emit("run_opened")
    loop.emit("state_restored", state=RestoredState(state), path="checkpoint")
    loop.emit("run_started", resumed_from="checkpoint")
    return loop


def finish_epochs(loop: Emitter, first: int, last: int, **metrics: float) -> None:
    """Finish the epochs from first to last, ten steps each; the loss is the epoch's inverse."""
    for epoch in range(first, last + 1):
        told = {"loss": 1 / epoch, **metrics}
        loop.emit("epoch_finished", epoch=epoch, step=10 * epoch, metrics=told)


def run_child(source: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
