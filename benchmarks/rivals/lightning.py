"""Lightning."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer import call

from benchmarks.rivals import Rival
from benchmarks.task import Log, Task, criterion

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
os.environ.setdefault("LITLOGGER_DISABLED", "1")

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def dispatch(handlers: int, every: int | None) -> Callable[[int], None]:
    """Emit as the trainer does, by the function that calls its callbacks' hooks."""
    callbacks = [_callback(every) for _ in range(handlers)]
    trainer = pl.Trainer(**QUIET, enable_checkpointing=False, callbacks=callbacks)

    def emissions(count: int) -> None:
        for step in range(1, count + 1):
            call._call_callback_hooks(trainer, "on_train_batch_end", 0.5, None, step)

    return emissions


def _callback(every: int | None) -> pl.Callback:
    class Callback(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *step: Any) -> None:
            pass

    class CallbackWhenDue(pl.Callback):
        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx % every == 0:  # type: ignore[operator]
                pass

    return Callback() if every is None else CallbackWhenDue()


class Module(pl.LightningModule):
    """The task's model, optimizer and losses."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.model = task.model()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss."""
        return criterion(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Record loss and accuracy."""
        outputs = self.model(batch[0])
        size = len(batch[1])
        self.log("val_loss", criterion(outputs, batch[1]), batch_size=size)
        hits = (outputs.argmax(1) == batch[1]).float().mean()
        self.log("val_accuracy", hits, batch_size=size)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its scheduler, which is stepped once an epoch."""
        optimizer, scheduler = self.task.optimizer(self.model)
        return [optimizer], [scheduler]


class Rows(pl.Callback):
    """The loss every so many steps."""

    def __init__(self, log: Log, every: int) -> None:
        self.rows, self.every = log, every

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a row."""
        step = trainer.global_step
        if step % self.every == 0:
            self.rows.row(trainer.current_epoch + 1, step, outputs["loss"].item())


def whole_run(task: Task, folder: Path) -> int:
    """Train with Lightning's trainer and callbacks."""
    log = task.open_log(folder)
    train, validation = task.loaders()
    best = ModelCheckpoint(folder, monitor="val_loss", save_top_k=1, save_last=True)
    stopping = EarlyStopping("val_loss", patience=task.patience)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            **QUIET,
            max_epochs=task.epochs,
            num_sanity_val_steps=0,
            callbacks=[Rows(log, task.log_every), best, stopping],
        )
        trainer.fit(Module(task), train, validation)
    log.close()
    torch.set_grad_enabled(True)
    return int(trainer.global_step)


RIVAL = Rival(
    "Lightning",
    "lightning.pytorch",
    "lightning",
    "a hook is looked up by name on every callback and runs within its profiler; emissions are"
    " measured outside of a fit; the run's rows are written by a callback of three lines, for its"
    " CSVLogger keeps rows in memory and writes them anew each time",
    dispatch,
    whole_run,
)
