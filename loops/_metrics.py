"""Numbers that stay on their device until somebody reads them."""

from __future__ import annotations

import math
from collections.abc import ItemsView, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from eventbus.loops._means import Means, Value, WeightedMean, settled, wide_dtype

__all__ = [
    "Means",
    "Metrics",
    "Value",
    "WeightedMean",
    "as_recorded",
    "prefixed",
    "scalars",
    "settled",
]


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

    def items(self) -> ItemsView[str, float]:
        """Return the pairs of key and float."""
        return self._read().items()  # `Mapping` has one that looks each key up

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


def as_recorded(key: str, value: Any) -> Value:
    """Return a reported value as it is kept: a float, or a detached copy of a scalar tensor.

    A copy, because the caller may add to the tensor in place, and CUDA graphs write to theirs anew
    at each replay. It stays on its device and does not synchronise.

    Raises
    ------
    TypeError
        Neither a real number nor a tensor of such.
    ValueError
        A tensor of more than one element.
    """
    if isinstance(value, Tensor):
        scalar = value.detach()
        return scalar.clone() if _is_plain(scalar) else _only_element(key, scalar).clone()
    if _is_real(value):
        return _as_float(value)
    raise TypeError(f"metric {key!r} must be a real number or a scalar tensor; got {value!r}")


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a huge int
        return math.inf if value > 0 else -math.inf


def _is_plain(value: Tensor) -> bool:
    return value.dim() == 0 and not value.is_complex()


def _only_element(key: str, value: Tensor) -> Tensor:
    if value.is_complex():
        raise TypeError(
            f"metric {key!r} must be a real number; got a tensor of {value.dtype}: report its "
            f"abs(), or its real part"
        )
    if value.numel() != 1:
        raise ValueError(
            f"metric {key!r} must be a single number; got a tensor of shape "
            f"{tuple(value.shape)}: report its mean"
        )
    return value.reshape(())


def scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those that are a real number or a tensor of one.

    Examples
    --------
    >>> import torch
    >>> scalars({"loss": torch.tensor(0.5), "lr": 0.1, "confusion": torch.zeros(2, 2), "tag": "a"})
    {'loss': tensor(0.5000), 'lr': 0.1}
    >>> scalars({"phase": torch.tensor(1j)})
    {}
    """
    return {key: value for key, value in values.items() if _is_scalar(value)}


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return _is_real(value)


def _is_real(value: Any) -> bool:
    if isinstance(value, float):
        return True
    if getattr(getattr(value, "dtype", None), "kind", None) == "c":  # numpy's; `float` takes them
        return False
    return hasattr(value, "__float__") or hasattr(value, "__index__")


def _transferred(values: Mapping[str, Value]) -> dict[str, float]:
    floats = dict(values)
    for device, keys in _by_device(values).items():
        floats.update(zip(keys, _read(device, [values[key] for key in keys]), strict=True))
    return {key: _as_float(value) for key, value in floats.items()}


def _read(device: torch.device, tensors: list[Any]) -> list[float]:
    if len(tensors) == 1:
        return [tensors[0].item()]
    wide = wide_dtype(device)
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
