"""Save the weights every 10 epochs: a handler of two lines; the loop knows nothing of it.

It shows `bus.on` with a filter, a handler that names what it wants, and the ready loop `fit`.
Run it with: python examples/save_weights.py [--epochs 30] [--run-dir runs/save_weights]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from eventbus import EventBus, every
from eventbus.loops import fit


def parabola() -> DataLoader[tuple[torch.Tensor, ...]]:
    """Make noisy points of a parabola, in batches."""
    x = torch.linspace(-1, 1, 256).unsqueeze(1)
    return DataLoader(TensorDataset(x, x**2 + 0.02 * torch.randn_like(x)), 32, shuffle=True)


def main() -> None:
    """Train, and list what was saved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/save_weights"))
    options = parser.parse_args()
    folder: Path = options.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    bus = EventBus()

    @bus.on("epoch_finished", when=every(10))
    def save_weights(epoch: int, model: nn.Module) -> None:
        torch.save(model.state_dict(), folder / f"weights-{epoch:04}.pt")

    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = parabola()
    run = fit(
        bus,
        model=model,
        optimizer=optimizer,
        loss_fn=nn.functional.mse_loss,
        train_loader=data,
        epochs=options.epochs,
    )
    print(f"{run.outcome} after {run.epoch} epochs: loss {run.metrics['loss']:.5f}")
    for path in sorted(folder.glob("weights-*.pt")):
        print("saved", path)


if __name__ == "__main__":
    main()
