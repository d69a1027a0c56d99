"""skorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, LRScheduler
from skorch.helper import predefined_split

from benchmarks.rivals import Rival
from benchmarks.task import Log, Task


class Rows(Callback):  # type: ignore[misc]
    """The loss every so many steps."""

    def __init__(self, log: Log, every: int) -> None:
        self.log, self.every, self.step = log, every, 0

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool = False, **rest: Any
    ) -> None:
        """Write a row."""
        if training:
            self.step += 1
            if self.step % self.every == 0:
                loss = net.history[-1, "batches", -1, "train_loss"]
                self.log.row(net.history[-1, "epoch"], self.step, loss)


def whole_run(task: Task, folder: Path) -> int:
    """Train with skorch's net and callbacks."""
    log = task.open_log(folder)
    rows = Rows(log, task.log_every)
    train, validation = task.loaders()
    best, last = folder / "best", folder / "last"
    net = NeuralNetClassifier(
        task.model(),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=task.rate,
        optimizer__momentum=task.momentum,
        max_epochs=task.epochs,
        iterator_train=lambda dataset, **_: train,
        iterator_valid=lambda dataset, **_: validation,
        train_split=predefined_split(validation.dataset),
        classes=list(range(task.classes)),
        verbose=0,
        callbacks=[
            rows,
            Checkpoint(dirname=best, monitor="valid_loss_best"),
            Checkpoint(dirname=last, monitor=None),
            EarlyStopping(patience=task.patience),
            LRScheduler(torch.optim.lr_scheduler.StepLR, **task.schedule),
        ],
        callbacks__valid_acc=None,
    )
    net.fit(train.dataset, None)
    log.close()
    return rows.step


RIVAL = Rival(
    "skorch",
    "skorch",
    "skorch",
    "reads the loss of every batch (`.item()`), and keeps all of them",
    None,
    whole_run,
)
