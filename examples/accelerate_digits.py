"""A loop by hand with an Accelerator: device placement, accumulation, and the same handlers.

What it needs is a `Run`, and `accumulate` in the place of Accelerate's own.
Run it with: python examples/accelerate_digits.py [--epochs 20] [--run-dir runs/accelerate_digits]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from digits import digits, make_bus, reader
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from eventbus import EventBus
from eventbus.handlers import GradientClipping
from eventbus.loops import Run
from eventbus.loops.accelerate import accumulate


def train(bus: EventBus, epochs: int) -> None:
    """Train on whatever device there is, two micro-batches to a step."""
    training, validation = digits()
    accelerator = Accelerator(gradient_accumulation_steps=2)
    bare = reader()
    model, optimizer, training_loader, validation_loader = accelerator.prepare(
        bare,
        torch.optim.Adam(bare.parameters(), lr=0.01),
        DataLoader(training, 32, shuffle=True),
        DataLoader(validation, 256),
    )
    with Run(bus, model=accelerator.unwrap_model(model), optimizer=optimizer) as run:
        for _ in run.epochs(epochs):
            model.train()
            for scans, targets in run.batches(training_loader, accumulate=2):
                with accumulate(run, accelerator, model):
                    loss = cross_entropy(model(scans), targets)
                    accelerator.backward(loss)
                    skip = run.boundary and run.emit("backward_finished", loss=loss).skip
                    if not skip:
                        optimizer.step()
                    optimizer.zero_grad()
                run.report(loss=loss)
            model.eval()
            for scans, targets in run.validate(validation_loader):
                with torch.no_grad():
                    outputs = model(scans)
                right = (outputs.argmax(1) == targets).float().mean()
                run.report(loss=cross_entropy(outputs, targets), accuracy=right)


def main() -> None:
    """Train; what is said comes from the bus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/accelerate_digits"))
    options = parser.parse_args()
    torch.manual_seed(0)
    bus = make_bus(options.run_dir)
    bus.attach(GradientClipping(1.0))
    train(bus, options.epochs)


if __name__ == "__main__":
    main()
