"""The order of Hugging Face's data where a handler's checkpoint has epochs behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["shift_epochs"]


def shift_epochs(loader: Any, by: int) -> Callable[[], None]:
    """Have the samplers of a loader take the order of the epochs after `by`; return what undoes it.

    A Trainer that knows nothing of the epochs before counts from 0, and would give the data of
    the first ones again.
    """
    shifted = list(_ordering(loader))
    for one in shifted:
        one.set_epoch = _later(one.set_epoch, by)

    def undo() -> None:
        for one in shifted:
            vars(one).pop("set_epoch", None)

    return undo


def _ordering(loader: Any) -> Iterator[Any]:
    """Find what draws the order: a sampler, or a batch sampler that has none to ask."""
    batches = getattr(loader, "batch_sampler", None)
    inner = getattr(batches, "batch_sampler", None)  # Accelerate's, split between ranks
    for one in (batches, inner):
        sampler = getattr(one, "sampler", None)
        found = sampler if hasattr(sampler, "set_epoch") else one
        if hasattr(found, "set_epoch"):
            yield found


def _later(set_epoch: Callable[[int], None], by: int) -> Callable[[int], None]:
    return lambda epoch: set_epoch(epoch + by)
