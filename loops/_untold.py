"""Samplers that began their order again and were told of no epoch.

A `zip` of loaders hides them from the Run that reads it: so they say it, and the Run asks.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

__all__ = ["forget_untold", "note_told", "note_untold", "take_untold", "untold"]

_untold: WeakSet[Any] = WeakSet()


def note_untold(sampler: Any) -> None:
    """A sampler begins the order that it has given before."""
    _untold.add(sampler)


def note_told(sampler: Any) -> None:
    """It was told its epoch."""
    _untold.discard(sampler)


def untold() -> WeakSet[Any]:
    """Return those that there are: what begins from here on may be meant to have one order."""
    return _untold.copy()


def forget_untold(before: WeakSet[Any]) -> None:
    """Forget those that there were not before."""
    _untold.intersection_update(before)


def take_untold() -> bool:
    """Say whether there was one since this was asked last."""
    found = bool(_untold)
    _untold.clear()
    return found
