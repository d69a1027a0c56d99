"""K-fold cross-validation: the runs follow each other on one bus, and its handlers go along.

Early stopping begins anew with each fold, each fold has a folder of checkpoints, one table is kept.
Run it with: python examples/k_fold.py [--folds 5] [--epochs 10] [--run-dir runs/k_fold]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from eventbus import EventBus
from eventbus.handlers import Checkpoint, EarlyStopping
from eventbus.loops import Run

Data = tuple[Tensor, Tensor]


def train(bus: EventBus, fold: str, training: Data, validation: Data, epochs: int) -> None:
    """Train a new model on one fold."""
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with Run(bus, model=model, optimizer=optimizer, name=fold) as run:
        for _ in run.epochs(epochs):
            model.train()
            order = torch.randperm(len(training[0]))
            for rows in run.batches(torch.split(order, 64)):
                loss = cross_entropy(model(training[0][rows]), training[1][rows])
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
                optimizer.step()
                optimizer.zero_grad()
                run.report(loss=loss)
            model.eval()
            with torch.no_grad():
                for images, targets in run.validate([validation]):
                    right = model(images).argmax(dim=1) == targets
                    run.report(accuracy=right.float().mean())


def main() -> None:
    """Attach the handlers once, train on each fold, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/k_fold"))
    options = parser.parse_args()
    torch.manual_seed(0)
    bus = EventBus()
    stopping = EarlyStopping("val_accuracy", mode="max", patience=3, on="epoch_finished")
    bus.attach(stopping)
    bus.attach(Checkpoint(options.run_dir / "{run}", best="val_accuracy", mode="max", keep=1))
    best: dict[str, float] = {}

    @bus.on("run_finished")
    def show(run: str, epoch: int) -> None:
        best[run] = stopping.best or 0.0
        print(f"{run}: {best[run]:.2%} at epoch {stopping.best_epoch}; ended after epoch {epoch}")

    pixels, targets = (torch.tensor(each) for each in load_digits(return_X_y=True))
    images = pixels.float() / 16
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0).split(images, targets)
    for number, (rows, held_out) in enumerate(folds, start=1):
        training, validation = ((images[part], targets[part]) for part in (rows, held_out))
        train(bus, f"fold-{number}", training, validation, options.epochs)
    print(f"accuracy: {mean(best.values()):.2%} ± {stdev(best.values()):.2%} over the folds")


if __name__ == "__main__":
    main()
