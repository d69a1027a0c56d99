"""A module of handlers, `my_handlers.py`, is attached whole; the bus shows who is called when.

The training is the ready loop `fit`, which knows none of them, and they do not know it.
Run it with: python examples/handlers_in_a_module.py [--epochs 30]
"""

from __future__ import annotations

import argparse

import my_handlers
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from eventbus import EventBus
from eventbus.loops import fit


def disc(count: int) -> DataLoader[tuple[Tensor, ...]]:
    """Make points, and labels that say whether they lie within a disc."""
    points = torch.randn(count, 2)
    labels = (points.norm(dim=1) < 1).long()
    return DataLoader(TensorDataset(points, labels), batch_size=64, shuffle=True)


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the share of labels that were found, from 0 to 1."""
    return (outputs.argmax(dim=1) == labels).float().mean()


def main() -> None:
    """Attach the module, show the bus, train, and detach the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    bus = EventBus()
    with bus.attach(my_handlers):
        print(bus, "\n")
        fit(
            bus,
            model=model,
            optimizer=optimizer,
            loss_fn=nn.functional.cross_entropy,
            train_loader=disc(1024),
            validation_loader=disc(512),
            metrics={"accuracy": accuracy},
            epochs=options.epochs,
        )
    print(f"detached: {bus!r}")


if __name__ == "__main__":
    main()
