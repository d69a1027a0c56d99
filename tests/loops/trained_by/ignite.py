"""The task in Ignite."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from ignite.metrics import Loss
from torch import nn

from eventbus import EventBus
from eventbus.loops import ignite

from .task import Task, Trained

NAME = "Ignite"
DIFFERENCES = {
    "SkipBatch while accumulating": "the step ends where it would have, with one micro-batch less",
}


def train(bus: EventBus, task: Task) -> Trained:
    model = task.model()
    optimizer, loss_fn = task.optimizer(model), nn.CrossEntropyLoss()
    trainer = create_supervised_trainer(
        model, optimizer, loss_fn, gradient_accumulation_steps=task.accumulate
    )
    evaluator = create_supervised_evaluator(model, metrics={"loss": Loss(loss_fn)})
    emitter = ignite.attach(
        trainer,
        bus,
        model=model,
        optimizer=optimizer,
        validation=evaluator,
        loss_fn=loss_fn,
    )
    if task.validates:
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda: evaluator.run(task.validation_loader)
        )
    parts = {"trainer": trainer, "model": model, "optimizer": optimizer, "eventbus": emitter}
    _save_and_resume(trainer, task, parts)
    trainer.run(task.train_loader, max_epochs=task.epochs)
    return Trained.of(model)


def _save_and_resume(trainer: Engine, task: Task, parts: dict[str, Any]) -> None:
    if task.own_checkpoints is None:
        return
    if task.resumes_own:
        newest = max(task.own_checkpoints.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
        Checkpoint.load_objects(to_load=parts, checkpoint=newest)
    saver = DiskSaver(str(task.own_checkpoints), require_empty=False)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, Checkpoint(parts, saver, n_saved=None))
