"""Numbers that stay on their device until somebody reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Means", "Metrics", "WeightedMean", "as_recorded", "prefixed", "scalars", "settled"]

Value: TypeAlias = "float | Tensor"


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

    Sums are kept in float64 where the device has it, so that a long epoch loses nothing to
    rounding. The mean of a single value is that very value.

    Examples
    --------
    >>> mean = WeightedMean(1.0, 3)
    >>> mean.add(5.0, 1)
    >>> mean.value
    2.0
    """

    __slots__ = ("_only", "_total", "_weight")

    def __init__(self, value: Value, weight: int) -> None:
        self._only: Value = value
        self._total: Value | None = None
        self._weight = weight

    def add(self, value: Value, weight: int) -> None:
        """Count one more value."""
        total = self._sum()
        if isinstance(total, Tensor) and isinstance(value, Tensor):
            self._total = torch.add(total, value, alpha=weight)
        else:
            self._total = total + _widened(value) * weight
        self._weight += weight

    def merge(self, other: WeightedMean) -> None:
        """Count all that another mean counted."""
        if other._total is None:
            self.add(other._only, other._weight)
        else:
            self._total = self._sum() + other._total
            self._weight += other._weight

    def copy(self) -> WeightedMean:
        """Return a mean that goes its own way from here."""
        new = WeightedMean(self._only, self._weight)
        new._total = self._total
        return new

    @property
    def value(self) -> Value:
        """The mean so far; NaN where all weights are 0."""
        if self._total is None:
            return self._only
        return self._total / self._weight if self._weight else math.nan

    def state(self) -> dict[str, Any]:
        """Return the sums as they are, on their device."""
        return {"only": self._only, "total": self._total, "weight": self._weight}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> WeightedMean:
        """Return the mean that had this state."""
        mean = cls(state["only"], state["weight"])
        mean._total = state["total"]
        return mean

    def _sum(self) -> Value:
        return _widened(self._only) * self._weight if self._total is None else self._total


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
        if value.numel() != 1:
            raise ValueError(
                f"metric {key!r} must be a single number; got a tensor of shape "
                f"{tuple(value.shape)}: report its mean"
            )
        scalar = value.detach() if value.dim() == 0 else value.detach().reshape(())
        return scalar.clone()
    if hasattr(value, "__float__") or hasattr(value, "__index__"):
        return float(value)
    raise TypeError(f"metric {key!r} must be a number or a scalar tensor; got {value!r}")


def scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those that are a number or a tensor of one element.

    Examples
    --------
    >>> import torch
    >>> scalars({"loss": torch.tensor(0.5), "lr": 0.1, "confusion": torch.zeros(2, 2), "tag": "a"})
    {'loss': tensor(0.5000), 'lr': 0.1}
    """
    return {key: value for key, value in values.items() if _is_scalar(value)}


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return hasattr(value, "__float__") or hasattr(value, "__index__")


def settled(value: Value | WeightedMean) -> Value:
    """Return the mean that `value` stands for, where it stands for one."""
    return value.value if isinstance(value, WeightedMean) else value


def _widened(value: Value) -> Value:
    if not isinstance(value, Tensor):
        return value
    return value.to(_wide(value.device))


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def _transferred(values: Mapping[str, Value]) -> dict[str, float]:
    floats = dict(values)
    for device, keys in _by_device(values).items():
        wide = _wide(device)
        pending = torch.stack([torch.as_tensor(values[key]).to(wide) for key in keys])
        floats.update(zip(keys, pending.tolist(), strict=True))  # the one synchronisation
    return {key: float(value) for key, value in floats.items()}


def _by_device(values: Mapping[str, Value]) -> dict[torch.device, list[str]]:
    keys: dict[torch.device, list[str]] = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            keys.setdefault(value.device, []).append(key)
    return keys


def prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a validation under their public keys, `<name>_<key>`."""
    return {f"{name}_{key}": value for key, value in values.items()}
