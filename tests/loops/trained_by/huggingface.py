"""The task in Hugging Face's Trainer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from eventbus import EventBus
from eventbus.loops import huggingface

from .task import Task, Trained

NAME = "Hugging Face"
DIFFERENCES = {
    "SkipBatch while accumulating": "the step ends where it would have, with one micro-batch less",
}
KEYS = ("inputs", "labels")
"""Where inputs and targets are in a batch."""


class Model(nn.Module):
    """Returns the loss beside the scores, as models of transformers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        scores = self.inner(inputs)
        found = {} if labels is None else {"loss": cross_entropy(scores, labels)}
        return {**found, "logits": scores}


def collate(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    inputs, targets = zip(*samples, strict=True)
    return {"inputs": torch.stack(inputs), "labels": torch.stack(targets)}


def arguments(folder: str | Path, **changes: Any) -> TrainingArguments:
    """Return those of a Trainer that writes nothing, shuffles nothing and clips nothing."""
    given: dict[str, Any] = {
        "per_device_train_batch_size": 5,
        "per_device_eval_batch_size": 8,
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(str(folder), **{**given, **changes})


def trainer(bus: EventBus, task: Task, folder: str | Path, **changes: Any) -> Trainer:
    model = Model(task.model())
    optimizer = task.optimizer(model)
    # A Trainer's own schedules write the learning rate anew at each step; this one leaves it.
    constant: Any = torch.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda step: 1.0)
    given: dict[str, Any] = {
        "num_train_epochs": task.epochs,
        "gradient_accumulation_steps": task.accumulate,
        "eval_strategy": "epoch" if task.validates else "no",
        "save_strategy": "no" if task.own_checkpoints is None else "epoch",
    }
    return Trainer(
        model,
        arguments(folder, **{**given, **changes}),
        data_collator=collate,
        train_dataset=task.train_data,
        eval_dataset=task.validation_data,
        optimizers=(optimizer, constant),
        callbacks=[huggingface.Emitter(bus)],
    )


def train(bus: EventBus, task: Task) -> Trained:
    with tempfile.TemporaryDirectory() as folder:
        training = trainer(bus, task, task.own_checkpoints or folder)
        training.train(resume_from_checkpoint=task.resumes_own)
    assert isinstance(training.model, Model)
    return Trained.of(training.model.inner)
