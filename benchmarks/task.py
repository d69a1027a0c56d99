"""What all train in the whole run: the same model, data and duties."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["Log", "Task", "criterion"]

criterion = torch.nn.functional.cross_entropy


@dataclass(frozen=True)
class Task:
    """A small perceptron, for 1,128 steps.

    Batches are put together beforehand, so that loading them costs little and hides nothing.
    """

    epochs: int = 12
    batches: int = 94
    batch_size: int = 64
    validation_batches: int = 8
    inputs: int = 64
    hidden: tuple[int, ...] = (256, 256)
    classes: int = 10
    log_every: int = 10
    patience: int = 1000  # watched, never reached
    rate: float = 0.005
    momentum: float = 0.9
    seed: int = 0

    @property
    def steps(self) -> int:
        """All optimizer steps."""
        return self.epochs * self.batches

    @property
    def schedule(self) -> dict[str, Any]:
        """The arguments of `StepLR`."""
        return {"step_size": 4, "gamma": 0.5}

    def rate_of(self, epoch: int, rate: float = 0.0) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        period, gamma = self.schedule["step_size"], self.schedule["gamma"]
        return float(self.rate * gamma ** (epoch // period))

    def model(self) -> torch.nn.Module:
        """Return the perceptron, the same each time."""
        torch.manual_seed(self.seed)
        layers: list[torch.nn.Module] = []
        width = self.inputs
        for hidden in self.hidden:
            layers += [torch.nn.Linear(width, hidden), torch.nn.ReLU()]
            width = hidden
        return torch.nn.Sequential(*layers, torch.nn.Linear(width, self.classes))

    def optimizer(self, model: torch.nn.Module) -> tuple[torch.optim.SGD, Any]:
        """Return the optimizer and its schedule, stepped once an epoch."""
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate, momentum=self.momentum)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, **self.schedule)

    def loaders(self, collate: Callable[[Any], Any] | None = None) -> tuple[Any, Any]:
        """Return the batches for training, and those for validation."""
        first, second = self._data
        train = DataLoader(first, batch_size=None, collate_fn=collate)
        return train, DataLoader(second, batch_size=None, collate_fn=collate)

    def open_log(self, folder: Path) -> Log:
        """Return a file for the losses, as one writes it by hand."""
        return Log(folder / "loss.csv")

    @cached_property
    def _data(self) -> tuple[TensorDataset, TensorDataset]:
        generator = torch.Generator().manual_seed(self.seed)
        centres = torch.randn(self.classes, self.inputs, generator=generator)

        def draw(batches: int) -> TensorDataset:
            labels = torch.randint(self.classes, (batches, self.batch_size), generator=generator)
            noise = torch.randn(batches, self.batch_size, self.inputs, generator=generator)
            return TensorDataset(centres[labels] + 2 * noise, labels)

        return draw(self.batches), draw(self.validation_batches)


class Log:
    """Rows of epoch, step and loss; each is on its way to the disk when it is written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["epoch", "step", "loss"])

    def row(self, epoch: int, step: int, loss: float) -> None:
        """Write a row."""
        self._writer.writerow([epoch, step, loss])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
