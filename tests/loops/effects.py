"""What each handler does to a training or writes about it, in numbers to hold loops against."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from eventbus import EventBus, every
from eventbus.handlers import (
    EMA,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    GradientClipping,
    LRSchedule,
    MixUp,
    NonFiniteGuard,
    TensorBoard,
)

from .trained_by.task import CLASSES, Task, Trained, observed

Train = Callable[[EventBus, Task], Trained]
Effect = Callable[[Train, Path], Any]

EFFECTS: dict[str, Effect] = {}
"""By the handler's name; each trains in a folder of its own and returns numbers and texts."""


def of(handler: type) -> Callable[[Effect], Effect]:
    """Put what measures the effect of a handler into `EFFECTS`."""

    def put(effect: Effect) -> Effect:
        EFFECTS[handler.__name__] = effect
        return effect

    return put


def told(events: list[Any], name: str, *fields: str) -> list[Any]:
    return [[given[field] for field in fields] for each, given in events if each == name]


@of(EarlyStopping)
def early_stopping(train: Train, folder: Path) -> Any:
    bus = EventBus()
    events = observed(bus)
    bus.attach(EarlyStopping("val_loss", patience=2, min_delta=10.0))
    train(bus, Task(epochs=6))
    return {"ended": told(events, "run_finished", "reason", "epoch", "step")}


@of(Checkpoint)
def checkpoint(train: Train, folder: Path) -> Any:
    """Two epochs in one go against one, and another one from its checkpoint."""
    first, second = EventBus(), EventBus()
    first.attach(Checkpoint(folder, best="val_loss"))
    train(first, Task(epochs=1))
    saved = {path.name: Checkpoint.load(path)["loop"]["step"] for path in folder.glob("step-*")}
    events = observed(second)
    second.attach(Checkpoint(folder, best="val_loss", resume="auto"))
    weights = train(second, Task(epochs=2)).weights
    return {
        "saved": saved,
        "went on": told(events, "epoch_finished", "epoch", "step"),
        "weights": weights,
    }


@of(LRSchedule)
def lr_schedule(train: Train, folder: Path) -> Any:
    bus = EventBus()
    events = observed(bus)
    halve = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    bus.attach(LRSchedule(halve, per="step"))
    weights = train(bus, Task()).weights
    rates = [
        (step, list(rates.values()))
        for step, rates in told(events, "learning_rate_changed", "step", "learning_rates")
    ]
    return {"rates": rates, "weights": weights}


@of(EMA)
def ema(train: Train, folder: Path) -> Any:
    """Validations see the average, and the training goes on as without it."""
    bus = EventBus()
    events = observed(bus)
    average = EMA(decay=0.5, validate=True)
    bus.attach(average)
    weights = train(bus, Task()).weights
    seen = [dict(metrics) for (metrics,) in told(events, "validation_done", "metrics")]
    return {"seen": seen, "updates": average.updates, "weights": weights}


@of(GradientClipping)
def gradient_clipping(train: Train, folder: Path) -> Any:
    bus = EventBus()
    events = observed(bus)
    bus.attach(GradientClipping(0.05))
    weights = train(bus, Task()).weights
    norms = [
        float(metrics["gradient_norm"])
        for (metrics,) in told(events, "metrics_measured", "metrics")
    ]
    return {"norms": norms, "weights": weights}


@of(NonFiniteGuard)
def non_finite_guard(train: Train, folder: Path) -> Any:
    """A batch that makes the loss NaN is skipped, and nothing of it stays."""
    bus = EventBus()
    events = observed(bus)
    left = [1]

    @bus.on("backward_finished", priority=10_000)
    def spoil(step: int, model: torch.nn.Module) -> None:
        if step == 3 and left:
            left.pop()
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad.fill_(float("nan"))

    bus.attach(NonFiniteGuard("skip"))
    weights = train(bus, Task()).weights
    skipped = [step for (step,) in told(events, "batch_skipped", "step")]
    return {"skipped": skipped, "weights": weights}


@of(CSVLog)
def csv_log(train: Train, folder: Path) -> Any:
    bus = EventBus()
    path = folder / "metrics.csv"
    bus.attach(CSVLog(path, on=("batch_finished", "epoch_finished")))
    train(bus, Task())
    return {"rows": CSVLog.read(path)}


@of(TensorBoard)
def tensorboard(train: Train, folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    bus = EventBus()
    bus.attach(TensorBoard(folder / "board", when=every(1)))
    train(bus, Task())
    board = EventAccumulator(str(folder / "board"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(point.step, point.value) for point in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }


@of(MixUp)
def mix_up(train: Train, folder: Path) -> Any:
    bus = EventBus()
    events = observed(bus)
    inputs, targets = getattr(import_module(train.__module__), "KEYS", (0, 1))
    bus.attach(MixUp(CLASSES, inputs=inputs, targets=targets))
    weights = train(bus, Task(soft_targets=True)).weights
    losses = [float(loss) for (loss,) in told(events, "batch_finished", "loss")]
    return {"losses": losses, "weights": weights}
