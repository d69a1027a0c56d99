"""A LightningModule and a Trainer as their documentation has them; one callback is the bus.

Handlers that know nothing of Lightning (`digits.py`) stop it, save it and file its curves.
Run it with: python examples/lightning_digits.py [--epochs 20] [--run-dir runs/lightning_digits]
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import lightning
import torch
from digits import digits, make_bus, reader
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import eventbus.loops.lightning


class DigitReader(lightning.LightningModule):
    """Reads digits, and logs how well."""

    def __init__(self, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = reader()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Return the loss."""
        scans, targets = batch
        loss = cross_entropy(self.network(scans), targets)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        """Log loss and accuracy."""
        scans, targets = batch
        scores = self.network(scans)
        self.log("val_loss", cross_entropy(scores, targets))
        self.log("val_accuracy", (scores.argmax(1) == targets).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])


def main() -> None:
    """Train; what is said comes from the bus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/lightning_digits"))
    options = parser.parse_args()
    bus = make_bus(options.run_dir)

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lightning.seed_everything(0, verbose=False)
    training, validation = digits()
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        callbacks=[eventbus.loops.lightning.Emitter(bus)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(DigitReader(), DataLoader(training, 64, shuffle=True), DataLoader(validation, 256))


if __name__ == "__main__":
    main()
