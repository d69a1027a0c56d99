"""Samplers that began their order again and were told of no epoch.

A `zip` of loaders hides them from the Run that reads it: so they say it, and the Run asks.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

__all__ = ["note_told", "note_untold", "take_untold"]

_untold: WeakSet[Any] = WeakSet()


def note_untold(sampler: Any) -> None:
    """A sampler begins the order that it has given before."""
    _untold.add(sampler)


def note_told(sampler: Any) -> None:
    """It was told its epoch."""
    _untold.discard(sampler)


def take_untold() -> bool:
    """Say whether there was one since this was asked last."""
    found = bool(_untold)
    _untold.clear()
    return found
