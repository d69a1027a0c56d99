"""Handlers of a project, functions with marks: `bus.attach(my_handlers)` takes them all.

They need no bus to be written or tested, and no loop: each names the fields that it wants.
`handlers_in_a_module.py` attaches them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eventbus import EventBus, Priority, SkipBatch, Stop, every, from_, handles

Metrics = Mapping[str, float]


@handles("batch_loaded", priority=Priority.ALTER)
def blur(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Train on slightly moved points: what a transform's handler returns replaces the batch."""
    points, labels = batch
    return points + 0.02 * torch.randn_like(points), labels


@handles("backward_finished", priority=Priority.ALTER)
def clip_gradients(model: nn.Module, bus: EventBus) -> None:
    """Clip the norm of the gradients to 1, and tell the loggers what it was."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    bus.emit("metrics_measured", metrics={"gradient_norm": norm})


@handles("backward_finished", priority=Priority.DECIDE)
def refuse_nonsense(loss: Tensor) -> SkipBatch | None:
    """Take no step on a loss that is not a finite number; reading it waits for the device."""
    return None if torch.isfinite(loss) else SkipBatch(f"the loss is {loss.item()}")


@handles("epoch_finished", priority=Priority.DECIDE, when=from_(5))
def good_enough(metrics: Metrics) -> Stop | None:
    """End the run at an accuracy of 99 %, but not before epoch 5."""
    return Stop("99 % are right") if metrics["val_accuracy"] >= 0.99 else None


@handles("epoch_finished", priority=Priority.REPORT, when=every(2))
def print_epoch(epoch: int, metrics: Metrics) -> None:
    """Print a line every other epoch."""
    print(f"epoch {epoch:2}: loss {metrics['loss']:.3f}, {metrics['val_accuracy']:.1%} right")


@handles("run_finished", priority=Priority.REPORT)
def print_end(reason: str, epoch: int) -> None:
    """Print why the run has ended."""
    print(f"ended after {epoch} epochs: {reason}")


def helper() -> None:
    """Stay out of it: a function without a mark is not attached."""
