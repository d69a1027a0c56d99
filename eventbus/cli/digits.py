"""What the demo trains: scanned digits of 8 by 8 pixels, and a small network that reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from eventbus.cli.errors import CommandError

_VALIDATION_SHARE = 0.2
_GREY_LEVELS = 16.0  # a pixel counts the dark ones of 4 by 4 scanned points
_CHANNELS = 32
_CLASSES = 10

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Digits:
    """Both loaders give pairs: images `(batch, 1, 8, 8)` in 0 to 1, and digits `(batch,)`."""

    training: Batches
    validation: Batches


def load_digits(seed: int, *, batch_size: int = 64) -> Digits:
    """Load the digits that come with scikit-learn, and split them 4 to 1.

    The data are the test set of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
    Digits", UCI Machine Learning Repository, 1998: 1797 digits, nothing is downloaded.

    Raises
    ------
    CommandError
        scikit-learn is not installed.
    """
    images, targets = _scans()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    cut = round(len(order) * _VALIDATION_SHARE)
    validation, training = (
        TensorDataset(images[part], targets[part]) for part in (order[:cut], order[cut:])
    )
    return Digits(
        DataLoader(training, batch_size=batch_size, shuffle=True),
        DataLoader(validation, batch_size=4 * batch_size),
    )


def _scans() -> tuple[Tensor, Tensor]:
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        need = "the demo needs scikit-learn: pip install 'training-eventbus[demo]'"
        raise CommandError(need) from error
    pixels, targets = datasets.load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / _GREY_LEVELS
    return images, torch.tensor(targets)


def digit_reader() -> nn.Module:
    """Make the network: two convolutions, one pooling, one linear layer; about 29,000 weights."""
    return nn.Sequential(
        nn.Conv2d(1, _CHANNELS, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(_CHANNELS, 2 * _CHANNELS, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(2 * _CHANNELS * 16, _CLASSES),
    )
