"""Keras 3 on torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from benchmarks.rivals import Rival
from benchmarks.task import Log, Task


def dispatch(handlers: int, every: int | None) -> Callable[[int], None] | None:
    """Emit as `fit` does, by its list of callbacks."""
    if not handlers:
        return None  # it would hand nothing over to a pool of threads, which only `fit` starts
    callbacks = keras.callbacks.CallbackList([_callback(every) for _ in range(handlers)])

    def emissions(count: int) -> None:
        for step in range(1, count + 1):
            callbacks.on_train_batch_end(step, {"loss": 0.5})

    return emissions


def _callback(every: int | None) -> Any:
    class Callback(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            _ = logs["loss"]

    class CallbackWhenDue(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch % every == 0:  # type: ignore[operator]
                pass

    return Callback() if every is None else CallbackWhenDue()


class Rows(keras.callbacks.Callback):  # type: ignore[misc]
    """The loss every so many steps; Keras gives the mean of the epoch so far."""

    def __init__(self, log: Log, every: int) -> None:
        super().__init__()
        self.log, self.every, self.step, self.epoch = log, every, 0, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keep the epoch's number."""
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Write a row."""
        self.step += 1
        if self.step % self.every == 0:
            self.log.row(self.epoch, self.step, float(logs["loss"]))


def whole_run(task: Task, folder: Path) -> int:
    """Train with `fit` and its callbacks."""
    log = task.open_log(folder)
    model = _model(task)
    model.compile(
        keras.optimizers.SGD(task.rate, momentum=task.momentum),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    train, validation = task.loaders()
    rows = Rows(log, task.log_every)
    saver = keras.callbacks.ModelCheckpoint
    model.fit(
        train,
        validation_data=validation,
        epochs=task.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[
            rows,
            saver(folder / "last.keras"),
            saver(folder / "best.keras", monitor="val_loss", save_best_only=True),
            keras.callbacks.EarlyStopping(patience=task.patience),
            keras.callbacks.LearningRateScheduler(task.rate_of),
        ],
    )
    log.close()
    return rows.step


def _model(task: Task) -> Any:
    keras.utils.set_random_seed(task.seed)
    hidden = [keras.layers.Dense(width, activation="relu") for width in task.hidden]
    layers = [keras.Input((task.inputs,)), *hidden, keras.layers.Dense(task.classes)]
    return keras.Sequential(layers)


RIVAL = Rival(
    "Keras",
    "keras",
    "keras",
    "with nobody there is nothing comparable: it hands batches to a pool of threads; its"
    " layers, losses and optimizer are Keras's own on torch, and what it logs is the"
    " mean of the epoch so far",
    dispatch,
    whole_run,
)
