"""The task by hand, with `Run`: what all others are held against."""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from eventbus import EventBus
from eventbus.loops import fit

from .task import Task, Trained

NAME = "fit"
OWN_STATE = "`Checkpoint` is its own"


def train(bus: EventBus, task: Task) -> Trained:
    model = task.model()
    fit(
        bus,
        model=model,
        optimizer=task.optimizer(model),
        loss_fn=cross_entropy,
        train_loader=task.train_loader,
        validation_loader=task.validation_loader if task.validates else None,
        epochs=task.epochs,
        accumulate=task.accumulate,
    )
    return Trained.of(model)
