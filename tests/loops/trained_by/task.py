"""One training, the same in each framework: model, data, order and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from eventbus import EventBus

FEATURES, CLASSES = 4, 3


@dataclass(frozen=True)
class Task:
    """What to train, and how.

    Attributes
    ----------
    epochs
        In all.
    accumulate
        Micro-batches per optimizer step.
    validates
        After each epoch, over all of the validation data.
    batches
        Of five samples each, per epoch.
    own_checkpoints
        A folder where the framework is to save by its own means, after each epoch.
    resumes_own
        Go on from the newest checkpoint of the framework's own in that folder.
    soft_targets
        Class probabilities for targets, as MixUp makes them, will come to the loss.
    """

    epochs: int = 2
    accumulate: int = 1
    validates: bool = True
    batches: int = 4
    learning_rate: float = 0.1
    own_checkpoints: Path | None = None
    resumes_own: bool = False
    soft_targets: bool = False

    @property
    def train_data(self) -> TensorDataset:
        return TensorDataset(*data(5 * self.batches, seed=1))

    @property
    def validation_data(self) -> TensorDataset:
        return TensorDataset(*data(14, seed=2))

    @property
    def train_loader(self) -> DataLoader[Any]:
        return DataLoader(self.train_data, batch_size=5)

    @property
    def validation_loader(self) -> DataLoader[Any]:
        return DataLoader(self.validation_data, batch_size=8)

    def model(self) -> nn.Module:
        """Return the model with its first weights, always the same."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=0.9)


def data(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, FEATURES, generator=generator)
    return inputs, torch.randint(CLASSES, (samples,), generator=generator)


@dataclass
class Trained:
    """What became of it.

    Attributes
    ----------
    weights
        The parameters by their place in the model: float32, the layout of `Task.model`.
    """

    weights: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, model: nn.Module) -> Trained:
        return cls([one.detach().clone() for one in model.parameters()])


def observed(bus: EventBus) -> list[tuple[str, Mapping[str, Any]]]:
    """Return a list that fills with what is emitted: signals and fields, in order."""
    events: list[tuple[str, Mapping[str, Any]]] = []

    def observe(event: Any) -> None:
        events.append((event.name, dict(event.fields)))

    bus.on("*", priority=10_000, name="observed")(observe)
    return events
