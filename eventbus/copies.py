"""Copies of what the loop may change: for handlers that work on it when the loop has gone on.

Tensors are copied, also inside lists, tuples and dicts; from CUDA into pinned host memory, without
waiting. Nothing here imports torch: who hands over a tensor has done so.
"""

from __future__ import annotations

import copy
import sys
from collections import UserDict
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from eventbus.arrival import arrival, arrives_late
from eventbus.shown import Shown

__all__ = ["Copies"]


class Copies:
    """Makes copies on the loop's thread, and tells another thread when they are there.

    Examples
    --------
    >>> from eventbus.copies import Copies
    >>> batch, copies = {"x": [1, 2]}, Copies()
    >>> kept = copies.of(batch)
    >>> copies.seal()
    >>> batch["x"].append(3)
    >>> copies.wait()
    >>> kept
    {'x': [1, 2]}
    """

    __slots__ = ("_arriving", "_devices")

    def __init__(self) -> None:
        self._devices: set[Any] = set()
        self._arriving: list[Any] = []

    def of(self, value: Any) -> Any:
        """Return `value` as it is now: tensors, arrays and plain containers are copied.

        A mapping that reads its numbers lazily, as a loop's metrics do, is copied unread. What is
        none of these is returned as it is.
        """
        if type(value) in _UNCHANGING:
            return value
        if _is_tensor(value):
            return self._of_tensor(value)
        if _is_array(value):
            return value.copy()
        if isinstance(value, list | tuple):
            return self._of_sequence(value)
        if isinstance(value, Mapping):
            return self._of_mapping(value)
        return value

    def seal(self) -> None:
        """Note the moment after which all copies have arrived; called after the last one."""
        self._arriving.extend(arrival(device) for device in self._devices)

    def wait(self) -> None:
        """Wait until the copies are there."""
        for event in self._arriving:
            event.synchronize()

    def _of_tensor(self, tensor: Any) -> Any:
        is_late = arrives_late(getattr(tensor, "device", None))
        if is_late:
            self._devices.add(tensor.device)
        return tensor.detach().to("cpu", non_blocking=is_late, copy=True)

    def _of_sequence(self, values: list[Any] | tuple[Any, ...]) -> Any:
        copied = [self.of(value) for value in values]
        if hasattr(values, "_fields"):
            return type(values)(*copied)  # a named tuple
        return copied if isinstance(values, list) else tuple(copied)

    def _of_mapping(self, values: Mapping[Any, Any]) -> Mapping[Any, Any]:
        if isinstance(getattr(values, "tensors", None), Mapping):
            return Numbers(self._of_items(values.tensors))  # type: ignore[attr-defined]  # looked at just now
        if isinstance(values, MappingProxyType | Shown):
            return type(values)(self._of_items(values))
        if type(values) is dict:
            return self._of_items(values)
        if not isinstance(values, dict | UserDict):
            return values  # somebody's own: who knows what a copy of it is
        copied = copy.copy(values)
        copied.update(self._of_items(values))
        return copied

    def _of_items(self, values: Mapping[Any, Any]) -> dict[Any, Any]:
        return {key: self.of(value) for key, value in values.items()}


class Numbers(Mapping[str, float]):
    """Metrics whose values have come to the host: a read-only mapping to `float`.

    Attributes
    ----------
    tensors : mapping
        The values as they were sent, in host memory.

    Examples
    --------
    >>> Numbers({"loss": 1})["loss"]
    1.0
    """

    __slots__ = ("tensors",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.tensors = MappingProxyType(values)

    def __getitem__(self, key: str) -> float:
        return float(self.tensors[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"Numbers({dict(self)})"


_UNCHANGING = frozenset({int, float, str, bool, bytes, type(None)})


def _is_tensor(value: Any) -> bool:
    return callable(getattr(type(value), "detach", None)) and hasattr(type(value), "to")


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, getattr(numpy, "ndarray", ()))
