"""An Ignite trainer as its documentation has it, and one line that puts it on the bus.

Handlers that know nothing of Ignite (`digits.py`) stop it, save it and file its curves.
Run it with: python examples/ignite_digits.py [--epochs 20] [--run-dir runs/ignite_digits]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from digits import digits, make_bus, reader
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy, Loss
from torch import nn
from torch.utils.data import DataLoader

import eventbus.loops.ignite


def main() -> None:
    """Train; what is said comes from the bus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/ignite_digits"))
    options = parser.parse_args()
    bus = make_bus(options.run_dir)

    torch.manual_seed(0)
    training, validation = digits()
    model, criterion = reader(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    trainer = create_supervised_trainer(model, optimizer, criterion)
    evaluator = create_supervised_evaluator(
        model, metrics={"loss": Loss(criterion), "accuracy": Accuracy()}
    )

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        evaluator.run(DataLoader(validation, 256))

    eventbus.loops.ignite.attach(
        trainer, bus, model=model, optimizer=optimizer, validation=evaluator, loss_fn=criterion
    )
    trainer.run(DataLoader(training, 64, shuffle=True), max_epochs=options.epochs)


if __name__ == "__main__":
    main()
