"""The task in Keras, on torch."""

from __future__ import annotations

from typing import Any

import keras
from torch import Tensor

from eventbus import EventBus
from eventbus.loops.keras import Emitter

from .task import CLASSES, FEATURES, Task, Trained

NAME = "Keras"
DIFFERENCES = {
    "SkipBatch while accumulating": "the step ends where it would have, with one micro-batch less",
}


class TorchSGD(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras ships no types
    """SGD as torch does it: its momentum holds no learning rate, which matters when that moves."""

    def __init__(self, learning_rate: float, momentum: float, **named: Any) -> None:
        super().__init__(learning_rate=learning_rate, **named)
        self.momentum = momentum

    def build(self, variables: Any) -> None:
        super().build(variables)
        self.momentums = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        momentum = self.momentums[self._get_variable_index(variable)]
        self.assign(momentum, momentum * self.momentum + gradient)
        self.assign_sub(variable, momentum * learning_rate)


def train(bus: EventBus, task: Task) -> Trained:
    model = made(task)
    emitter = Emitter(bus)
    model.fit(
        task.train_loader,
        epochs=task.epochs,
        validation_data=task.validation_loader if task.validates else None,
        callbacks=[emitter, *saving(task, model)],
        shuffle=False,
        verbose=0,
    )
    return Trained([as_torch(one.value) for one in model.trainable_variables])


def made(task: Task) -> Any:
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(CLASSES, name="logits"),
        ],
        name="model",
    )
    for variable, value in zip(model.variables, task.model().parameters(), strict=True):
        variable.assign(as_torch(value))
    accumulate = task.accumulate if task.accumulate > 1 else None
    model.compile(
        TorchSGD(task.learning_rate, 0.9, gradient_accumulation_steps=accumulate),
        loss=hard_or_soft
        if task.soft_targets
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def hard_or_soft(targets: Any, logits: Any) -> Any:
    """Return the loss for classes, with which Keras tries it before a fit, and for MixUp's."""
    if targets.shape == logits.shape:
        return keras.losses.categorical_crossentropy(targets, logits, from_logits=True)
    return keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)


def saving(task: Task, model: Any) -> list[Any]:
    if task.own_checkpoints is None:
        return []
    return [keras.callbacks.BackupAndRestore(task.own_checkpoints, delete_checkpoint=False)]


def as_torch(weight: Tensor) -> Tensor:
    """Return a weight in the layout of torch; the other way round the same."""
    return weight.detach().clone().T if weight.dim() == 2 else weight.detach().clone()
