"""Numbers that stay on their device until somebody reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Means", "Metrics", "WeightedMean", "as_recorded", "prefixed", "settled"]

Value: TypeAlias = "float | Tensor"

TOGETHER = 64
"""So many values are summed at once."""


class Metrics(Mapping[str, float]):
    """A read-only mapping of metrics to floats, read lazily.

    The first read of a value moves all pending device values in one transfer per device (which
    waits for the device) and keeps the floats, so ten handlers cost as much as one. Keys, `len`
    and `in` read nothing.

    Parameters
    ----------
    values
        Floats, scalar tensors on any device, or means still to be divided.

    Attributes
    ----------
    tensors : mapping of str to Tensor or float
        The values unread: no synchronisation.

    Examples
    --------
    >>> import torch
    >>> metrics = Metrics({"loss": torch.tensor(0.5), "lr": 0.1})
    >>> metrics.tensors["loss"]
    tensor(0.5000)
    >>> metrics["loss"], dict(metrics)
    (0.5, {'loss': 0.5, 'lr': 0.1})
    """

    __slots__ = ("_floats", "_tensors", "_values")

    def __init__(self, values: Mapping[str, Value | WeightedMean]) -> None:
        self._values = values
        self._tensors: Mapping[str, Value] | None = None
        self._floats: dict[str, float] | None = None

    @property
    def tensors(self) -> Mapping[str, Value]:
        """The values as they are, on their device."""
        if self._tensors is None:
            self._tensors = MappingProxyType({k: settled(v) for k, v in self._values.items()})
        return self._tensors

    def __getitem__(self, key: str) -> float:
        if key not in self._values:
            raise KeyError(key)
        return self._read()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Metrics({self._read()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Metrics, (dict(self._read()),)

    def _read(self) -> dict[str, float]:
        if self._floats is None:
            self._floats = _transferred(self.tensors)
        return self._floats


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
    wide = _wide(kind[0])
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


def as_recorded(key: str, value: Any) -> Value:
    """Return a reported value as it is kept: a float, or a detached copy of a scalar tensor.

    A copy, because the caller may add to the tensor in place, and CUDA graphs write to theirs anew
    at each replay. It stays on its device and does not synchronise.

    Raises
    ------
    TypeError
        Neither a number nor a tensor.
    ValueError
        A tensor of more than one element.
    """
    if isinstance(value, Tensor):
        scalar = value.detach()
        return scalar.clone() if scalar.dim() == 0 else _only_element(key, scalar).clone()
    if hasattr(value, "__float__") or hasattr(value, "__index__"):
        return float(value)
    raise TypeError(f"metric {key!r} must be a number or a scalar tensor; got {value!r}")


def _only_element(key: str, value: Tensor) -> Tensor:
    if value.numel() != 1:
        raise ValueError(
            f"metric {key!r} must be a single number; got a tensor of shape "
            f"{tuple(value.shape)}: report its mean"
        )
    return value.reshape(())


def settled(value: Value | WeightedMean) -> Value:
    """Return the mean that `value` stands for, where it stands for one."""
    return value.value if isinstance(value, WeightedMean) else value


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def _transferred(values: Mapping[str, Value]) -> dict[str, float]:
    floats = dict(values)
    for device, keys in _by_device(values).items():
        floats.update(zip(keys, _read(device, [values[key] for key in keys]), strict=True))
    return {key: float(value) for key, value in floats.items()}


def _read(device: torch.device, tensors: list[Any]) -> list[float]:
    if len(tensors) == 1:
        return [tensors[0].item()]
    wide = _wide(device)
    return torch.stack([one.to(wide) for one in tensors]).tolist()  # the one synchronisation


def _by_device(values: Mapping[str, Value]) -> dict[torch.device, list[str]]:
    keys: dict[torch.device, list[str]] = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            keys.setdefault(value.device, []).append(key)
    return keys


def prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a validation under their public keys, `<name>_<key>`."""
    return {f"{name}_{key}": value for key, value in values.items()}
