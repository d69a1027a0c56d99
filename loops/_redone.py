"""What the code before the loops of a body changes again, in a run that is resumed behind it.

A metric that it resets at its top, say, then lacks what was counted before the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["Redone"]

_MOST = 100_000
"""So many numbers are compared, and no more: a metric has fewer, what is like a model has not."""


class Redone:
    """The small parts of `state=` as a checkpoint has given them back, to see whether they stay so.

    Parameters
    ----------
    parts
        What was given as `state=`, by key.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = {key: part for key, part in parts.items() if not _is_taken_care_of(part)}
        self._restored: dict[str, Any] = {}

    def note(self) -> None:
        """The parts have been given back, within a body that has been gone through before."""
        for key, part in self._parts.items():
            with suppress(Exception):  # not every tensor can be copied; such a part is left out
                state = part.state_dict()
                if _size(state) <= _MOST and not _is_changed(was := deepcopy(state), part):
                    self._restored[key] = was  # what changes by itself, as a clock, is not kept

    def take_changed(self) -> list[str]:
        """Return, once, the keys of those that are not as they were given back."""
        restored, self._restored = self._restored, {}
        return [key for key, was in restored.items() if _is_changed(was, self._parts[key])]


def _is_taken_care_of(part: Any) -> bool:
    """Tell of what a body is not to change, or what may change as it is looked at: a loader."""
    is_model = isinstance(part, nn.Module) and any(True for _ in part.parameters())
    return is_model or isinstance(part, Optimizer | LRScheduler) or hasattr(part, "__iter__")


def _is_changed(was: Any, part: Any) -> bool:
    """Tell whether a part has another state; False where it cannot be compared, as sparse ones."""
    with suppress(Exception):
        return not _are_equal(was, part.state_dict())
    return False


def _size(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel()
    if isinstance(state, Mapping):
        return sum(map(_size, state.values()))
    return sum(map(_size, state)) if isinstance(state, list | tuple) else 1


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        is_alike = one.shape == other.shape and one.dtype == other.dtype
        return is_alike and bool(torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and _all_equal(one.values(), [other[key] for key in one])
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and _all_equal(one, other)
    is_equal = (one == other) is True  # sets are, whatever the order of their elements
    return is_equal or repr(one) == repr(other)  # NaN is as it was


def _all_equal(one: Iterable[Any], other: Iterable[Any]) -> bool:
    return all(map(_are_equal, one, other))
