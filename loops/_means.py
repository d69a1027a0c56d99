"""Means of numbers that stay on their device while they are counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Means", "Value", "WeightedMean", "settled", "wide_dtype"]

Value: TypeAlias = "float | Tensor"

TOGETHER = 64
"""So many values are summed at once."""


class WeightedMean:
    """A mean that is kept on the device of its values; adding to it never synchronises.

    Values are kept as they come and many are summed at once, so that most steps cost no operation
    on the device; in float64 where it has that, so that a long epoch loses nothing to rounding. The
    mean of a single value is that very value.

    Examples
    --------
    >>> mean = WeightedMean(1.0, 3)
    >>> mean.add(5.0, 1)
    >>> mean.value
    2.0
    """

    __slots__ = ("_total", "_waiting", "_weight")

    def __init__(self, value: Value, weight: int) -> None:
        self._total: Value | None = None
        self._waiting: list[tuple[Value, int]] = [(value, weight)]
        self._weight = weight

    def add(self, value: Value, weight: int) -> None:
        """Count one more value."""
        self._waiting.append((value, weight))
        self._weight += weight
        if len(self._waiting) >= TOGETHER:
            self._set(self._sum())

    def merge(self, other: WeightedMean) -> None:
        """Count all that another mean counted."""
        if other._total is None and len(other._waiting) == 1:
            self.add(*other._waiting[0])
        else:
            self._set(self._sum() + other._sum())
            self._weight += other._weight

    def copy(self) -> WeightedMean:
        """Return a mean that goes its own way from here."""
        new = WeightedMean(0.0, self._weight)
        new._total, new._waiting = self._total, list(self._waiting)
        return new

    @property
    def value(self) -> Value:
        """The mean so far; NaN where all weights are 0."""
        if self._total is None and len(self._waiting) == 1:
            return self._waiting[0][0]
        return self._sum() / self._weight if self._weight else math.nan

    def state(self) -> dict[str, Any]:
        """Return the sums as they are, on their device.

        What waits to be summed waits on after a resume: summed earlier, it would round otherwise.
        """
        values: list[Any] = [value for value, _ in self._waiting]
        kinds = set(map(_kind, values))
        return {
            "total": self._total,
            "weight": self._weight,
            "waiting": torch.stack(values) if len(kinds) == 1 and None not in kinds else values,
            "weights": [weight for _, weight in self._waiting],
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> WeightedMean:
        """Return the mean that had this state."""
        mean = cls(0.0, state["weight"])
        mean._total = state["total"]
        if "waiting" in state:
            mean._waiting = list(zip(state["waiting"], state["weights"], strict=True))
        elif mean._total is None:  # as it was kept once: each value was summed at once
            mean._waiting = [(state["only"], state["weight"])]
        else:
            mean._waiting = []
        return mean

    def _set(self, total: Value) -> None:
        self._total = total
        self._waiting = []

    def _sum(self) -> Value:
        total = self._total
        for (kind, weight), run in groupby(self._waiting, lambda one: (_kind(one[0]), one[1])):
            for value in _sums([value for value, _ in run], kind):
                total = value * weight if total is None else _added(total, value, weight)
        assert total is not None, "a mean is made of at least one value"
        return total


def _kind(value: Value) -> Any:
    """Return what values must have in common to be stacked; None for numbers."""
    return (value.device, value.dtype) if isinstance(value, Tensor) else None


def _sums(values: list[Any], kind: Any) -> list[Any]:
    if kind is None:
        return values  # summed one by one, as anyone would do it by hand
    wide = wide_dtype(kind[0])
    return [values[0].to(wide) if len(values) == 1 else torch.stack(values).sum(dtype=wide)]


def _added(total: Value, value: Value, weight: int) -> Value:
    if isinstance(total, Tensor) and isinstance(value, Tensor):
        return torch.add(total, value, alpha=weight)
    return total + value * weight


class Means(dict[str, WeightedMean]):
    """Weighted means by key; a key's mean is over those who reported it."""

    def add(self, values: Mapping[str, Value], weight: int) -> None:
        """Count one batch of `weight` samples."""
        for key, value in values.items():
            if key in self:
                self[key].add(value, weight)
            else:
                self[key] = WeightedMean(value, weight)

    def merge(self, other: Means) -> None:
        """Count all that `other` counted, which stays as it is."""
        for key, mean in other.items():
            if key in self:
                self[key].merge(mean)
            else:
                self[key] = mean.copy()

    def state(self) -> dict[str, Any]:
        """Return the state of each."""
        return {key: mean.state() for key, mean in self.items()}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Means:
        """Return the means that had this state."""
        return cls((key, WeightedMean.of(one)) for key, one in state.items())


def settled(value: Value | WeightedMean) -> Value:
    """Return the mean that `value` stands for, where it stands for one."""
    return value.value if isinstance(value, WeightedMean) else value


def wide_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype to sum in: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
