"""What the examples of other frameworks share: the data, and the bus with all that hangs on it.

None of these handlers knows which framework it is that trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset, random_split

from eventbus import EventBus
from eventbus.handlers import Checkpoint, EarlyStopping, TensorBoard


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return data for training and for validation, four to one: `(64,)` grey levels, a digit."""
    pixels, targets = load_digits(return_X_y=True)
    scans = torch.tensor(pixels, dtype=torch.float32) / 16  # they go from 0 to 16
    data = TensorDataset(scans, torch.tensor(targets))
    generator = torch.Generator().manual_seed(0)
    training, validation = random_split(data, [0.8, 0.2], generator)
    return TensorDataset(*data[training.indices]), TensorDataset(*data[validation.indices])


def reader() -> nn.Module:
    """Make a small network that reads them."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))


def make_bus(folder: Path) -> EventBus:
    """Attach what is to happen besides the training."""
    bus = EventBus()
    bus.attach(EarlyStopping("val_loss", patience=3))
    bus.attach(Checkpoint(folder / "checkpoints", best="val_loss"))
    bus.attach(TensorBoard(folder / "tensorboard"))

    @bus.on("validation_done")
    def tell(epoch: int, metrics: Mapping[str, float]) -> None:
        print(f"epoch {epoch}: {metrics['val_accuracy']:.1%} of the digits read right")

    @bus.on("run_finished")
    def say(reason: str, epoch: int) -> None:
        print(f"ended after epoch {epoch}: {reason}")

    return bus
