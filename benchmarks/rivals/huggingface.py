"""Hugging Face's Trainer."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import (
    CallbackHandler,
    DefaultFlowCallback,
    PrinterCallback,
    TrainerControl,
    TrainerState,
)

from benchmarks.rivals import Rival
from benchmarks.task import Log, Task, criterion

transformers.logging.set_verbosity_error()


def dispatch(handlers: int, every: int | None) -> Callable[[int], None]:
    """Emit as the trainer does, by its callback handler."""
    callbacks = [_callback(every, number) for number in range(handlers)]
    handler = CallbackHandler(callbacks, None, None, None, None)
    arguments = TrainingArguments(tempfile.mkdtemp(), report_to="none", use_cpu=True)
    state, control = TrainerState(), TrainerControl()

    def emissions(count: int) -> None:
        for step in range(1, count + 1):
            state.global_step = step
            handler.on_step_end(arguments, state, control)

    return emissions


def _callback(every: int | None, number: int) -> TrainerCallback:
    def on_step_end(self: Any, args: Any, state: Any, control: Any, **others: Any) -> None:
        _ = state.global_step

    def on_step_end_when_due(self: Any, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step % every == 0:
            pass

    method = on_step_end if every is None else on_step_end_when_due
    kind: Any = type(f"Callback{number}", (TrainerCallback,), {"on_step_end": method})
    callback: TrainerCallback = kind()
    return callback


class Wrapped(torch.nn.Module):
    """The task's model, giving its loss as the trainer wants it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any, labels: Any) -> dict[str, Any]:
        """Return the loss and the outputs."""
        outputs = self.model(x)
        return {"loss": criterion(outputs, labels), "logits": outputs}


class Rows(TrainerCallback):  # type: ignore[misc]
    """The loss every so many steps: what the trainer logs is a mean since the last time."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **others: Any) -> None:
        """Write a row."""
        if "loss" in logs:
            self.log.row(math.ceil(state.epoch), state.global_step, logs["loss"])


class OwnLoaders(Trainer):  # type: ignore[misc]
    """The trainer over the task's loaders."""

    loaders: tuple[Any, Any]

    def get_train_dataloader(self) -> Any:
        """Return the task's training batches."""
        return self.loaders[0]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the task's validation batches."""
        return self.loaders[1]


def whole_run(task: Task, folder: Path) -> int:
    """Train with the trainer and its callbacks."""
    log = task.open_log(folder)
    model = task.model()
    optimizer, scheduler = task.optimizer(model)
    trainer = OwnLoaders(
        Wrapped(model),
        _arguments(task, folder),
        optimizers=(optimizer, _PerEpoch(scheduler, task.batches)),
        train_dataset=range(task.batches),
        eval_dataset=range(task.validation_batches),
        compute_metrics=_accuracy,
        callbacks=[Rows(log), EarlyStoppingCallback(task.patience)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.loaders = task.loaders(lambda batch: {"x": batch[0], "labels": batch[1]})
    trainer.train()
    log.close()
    return int(trainer.state.global_step)


def _arguments(task: Task, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        str(folder / "checkpoints"),
        num_train_epochs=task.epochs,
        per_device_train_batch_size=task.batch_size,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,  # the last and the best
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        logging_steps=task.log_every,
        max_grad_norm=0.0,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=task.seed,
    )


def _accuracy(given: Any) -> dict[str, float]:
    return {"accuracy": float((given.predictions.argmax(1) == given.label_ids).mean())}


class _PerEpoch(torch.optim.lr_scheduler.LambdaLR):
    """The trainer steps its scheduler at every step; this one counts epochs."""

    def __init__(self, scheduler: Any, steps: int) -> None:
        period, gamma = scheduler.step_size, scheduler.gamma
        super().__init__(scheduler.optimizer, lambda step: gamma ** (step // steps // period))


RIVAL = Rival(
    "Hugging Face",
    "transformers.trainer",
    "transformers",
    "a callback reads the step off the state and is not given the loss; the run logs the mean since"
    " the last row, steps its scheduler each step, saves generators too, and loads the best at the"
    " end",
    dispatch,
    whole_run,
)
_ = DefaultFlowCallback  # the trainer adds it by itself
