"""Batches and outputs as people nest them: tensors in tuples, lists, dicts, dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["detached", "first_size", "moved"]


def first_size(batch: Any) -> int | None:
    """Return dimension 0 of the first tensor in a batch that has one; None where there is none.

    Examples
    --------
    >>> import torch
    >>> first_size({"tokens": torch.zeros(8, 128), "lengths": torch.zeros(8)})
    8
    """
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.dim() else None
    for part in _parts(batch):
        if isinstance(part, Tensor) and part.dim():  # the first one, of nearly all batches
            return part.shape[0]
        size = first_size(part)
        if size is not None:
            return size
    return None


def detached(value: Any) -> Any:
    """Return the same nesting with every tensor detached; nothing is copied or synchronised."""
    if isinstance(value, Tensor):
        return value.detach()
    return _with_parts(value, detached)


def moved(value: Any, device: torch.device) -> Any:
    """Return the same nesting on `device`; what has a `.to` of its own moves itself.

    A copy from pinned memory to a GPU does not synchronise.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if callable(getattr(value, "to", None)):
        return value.to(device)
    return _with_parts(value, lambda part: moved(part, device))


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, (list, tuple)):  # first: it is asked of every batch, and costs least
        return value
    if isinstance(value, Mapping):
        return value.values()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return ()


def _with_parts(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, MutableMapping):
        return _refilled(value, {key: change(part) for key, part in value.items()})
    if isinstance(value, (list, tuple)):
        return _rebuilt(value, [change(part) for part in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: change(getattr(value, name)) for name in names})
    return value


def _refilled(mapping: MutableMapping[Any, Any], parts: Mapping[Any, Any]) -> Any:
    new = copy.copy(mapping)  # keeps the class, and what a defaultdict or a model output adds
    for key, part in parts.items():
        new[key] = part
    return new


def _rebuilt(value: list[Any] | tuple[Any, ...], parts: list[Any]) -> Any:
    make: Callable[..., Any] = type(value)
    return make(*parts) if hasattr(value, "_fields") else make(parts)
