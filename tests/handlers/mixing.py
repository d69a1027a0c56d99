"""What the tests of MixUp and CutMix share: batches that show what became of each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eventbus import EventBus
from eventbus.handlers import CutMix, MixUp


def mixed(handler: MixUp | CutMix, batch: Any) -> Any:
    bus = EventBus(strict=True)
    bus.attach(handler)
    return bus.bind(sender="train").transform("batch_loaded", batch, epoch=1, step=1)


def numbered(count: int = 6, height: int = 8, width: int = 10) -> tuple[Tensor, Tensor]:
    """Return images of one value each, its number, and labels that are the same number."""
    labels = torch.arange(count)
    return labels.float().reshape(-1, 1, 1, 1).expand(count, 3, height, width).clone(), labels


def share_of(targets: Tensor) -> float:
    """Return the share that is a sample's own, read off targets that were all different."""
    own = targets.diagonal()
    others = own[own < 1]  # a sample may be its own partner
    return float(others[0]) if len(others) else 1.0
