"""The task in Lightning."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import cross_entropy

from eventbus import EventBus
from eventbus.loops.lightning import Emitter

from .task import Task, Trained

NAME = "Lightning"
DIFFERENCES = {
    "SkipBatch while accumulating": "the step ends where it would have, with one micro-batch less",
}


class Module(LightningModule):
    """Returns the loss, and logs that of the validation."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.inner = task.model()

    def training_step(self, batch: list[Tensor]) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: list[Tensor]) -> Any:
        loss = self.loss(batch)
        self.log("val_loss", loss)
        return loss

    def loss(self, batch: list[Tensor]) -> Tensor:
        inputs, targets = batch
        return cross_entropy(self.inner(inputs), targets)

    def configure_optimizers(self) -> Any:
        return self.task.optimizer(self.inner)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning says of small machines and of torch."""
    expected = (
        ".*does not have many workers",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "`training_step` returned `None`",
        ".*GPU available but not used",
        "Be aware that when using `ckpt_path`",
        "You're resuming from a checkpoint that ended before the epoch ended",
        "Checkpoint directory .* exists and is not empty",
    )
    with warnings.catch_warnings():
        for message in expected:
            warnings.filterwarnings("ignore", message)
        yield


def trainer(bus: EventBus, task: Task, folder: str | Path, **changes: Any) -> Trainer:
    """Return one that writes nothing but the checkpoints that it is told to."""
    given: dict[str, Any] = {
        "max_epochs": task.epochs,
        "accumulate_grad_batches": task.accumulate,
        "limit_val_batches": None if task.validates else 0,
        "callbacks": [Emitter(bus)],
        "default_root_dir": folder,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return Trainer(**{**given, **changes})


def train(bus: EventBus, task: Task) -> Trained:
    module, changes, path = Module(task), dict[str, Any](), None
    if task.own_checkpoints is not None:
        saving = ModelCheckpoint(task.own_checkpoints, save_top_k=-1)
        changes = {"enable_checkpointing": True, "callbacks": [saving, Emitter(bus)]}
        if task.resumes_own:
            found = task.own_checkpoints.glob("*.ckpt")
            path = max(found, key=lambda one: one.stat().st_mtime_ns)
    with tempfile.TemporaryDirectory() as folder, quiet():
        training = trainer(bus, task, folder, **changes)
        training.fit(module, task.train_loader, task.validation_loader, ckpt_path=path)
    return Trained.of(module.inner)
