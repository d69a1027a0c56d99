"""A copy of state that stays as it is while training goes on, in memory that is used again.

What shares its storage shares it in the copy too, so that the file of a copy is that of the state.
"""

from __future__ import annotations

import ctypes
import os
from collections import Counter, OrderedDict, defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from eventbus.arrival import arrival, arrives_late

if TYPE_CHECKING:
    import torch

__all__ = ["Buffers", "Snapshot"]


_PIECE = 16 * 1024**2  # bytes
_WORTH_THREADS = 4 * _PIECE


class Snapshot:
    """A copy that may still be on its way from a device.

    Attributes
    ----------
    state
        The copy; to be read after `wait`.
    """

    def __init__(self, state: Any, events: list[Any]) -> None:
        self.state = state
        self._events = events

    def wait(self) -> Any:
        """Wait until all has come from the devices; return the state. For any thread."""
        for event in self._events:
            event.synchronize()
        return self.state


class Buffers:
    """CPU memory for one snapshot at a time.

    A new snapshot writes over the one before. Memory is pinned for what comes from a CUDA device:
    the copy is then only queued on the device's current stream, and nobody waits for it here.

    Examples
    --------
    >>> import torch
    >>> weight = torch.ones(2)
    >>> snapshot = Buffers().copy({"model": {"weight": weight}})
    >>> _ = weight.zero_()
    >>> snapshot.wait()
    {'model': {'weight': tensor([1., 1.])}}
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, bool], list[torch.Tensor]] = {}

    def copy(self, state: Any) -> Snapshot:
        """Copy containers and tensors; of what `offender` lets pass, all else is immutable."""
        copying = _Copying(self._free)
        copied = copying.of(state)
        _move(copying.moves)
        self._free = dict(copying.used)  # what was not needed now is given back
        return Snapshot(copied, copying.events())


class _Copying:
    """One pass over the state; each object is copied once."""

    def __init__(self, free: dict[tuple[int, bool], list[torch.Tensor]]) -> None:
        self._free = free
        self.used: dict[tuple[int, bool], list[torch.Tensor]] = defaultdict(list)
        self._copies: dict[int, Any] = {}
        self._storages: dict[tuple[Any, int, int], torch.Tensor] = {}
        self._kept: list[Any] = []  # an id belongs to its object only while that lives
        self._devices: set[torch.device] = set()
        self.moves: list[tuple[int, int, int]] = []  # to, from, bytes: within the CPU's memory

    def of(self, value: Any) -> Any:
        if id(value) not in self._copies:
            self._kept.append(value)
            self._copies[id(value)] = self._copied(value)
        return self._copies[id(value)]

    def events(self) -> list[Any]:
        """Mark, on each device, the moment at which all copies are there."""
        return [arrival(device) for device in self._devices]

    def _copied(self, value: Any) -> Any:
        import torch

        kind = type(value)
        if kind in (dict, OrderedDict, Counter):
            return self._mapping(value, kind())
        if kind is list:
            return self._list(value)
        if kind in (tuple, set):
            return kind([self.of(part) for part in value])
        if kind is bytearray:
            return bytearray(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        return value

    def _mapping(self, value: Any, copied: Any) -> Any:
        self._copies[id(value)] = copied  # before what is inside: it may hold itself
        for key, part in value.items():
            copied[self.of(key)] = self.of(part)
        if type(value) is OrderedDict:
            vars(copied).update(self.of(vars(value)))
        return copied

    def _list(self, value: list[Any]) -> list[Any]:
        copied: list[Any] = []
        self._copies[id(value)] = copied
        copied.extend(self.of(part) for part in value)
        return copied

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        import torch

        plain = value.detach()
        copied = self._strided(plain) if _is_plain(plain) else plain.cpu().clone()
        if type(value) is torch.nn.Parameter:
            copied = torch.nn.Parameter(copied, requires_grad=value.requires_grad)
        else:
            copied.requires_grad_(value.requires_grad)
        vars(copied).update(self.of(vars(value)))
        return copied

    def _strided(self, value: torch.Tensor) -> torch.Tensor:
        import torch

        storage = self._storage(value).untyped_storage()
        places = (value.storage_offset(), value.size(), value.stride())
        return torch.empty(0, dtype=value.dtype).set_(storage, *places)

    def _storage(self, value: torch.Tensor) -> torch.Tensor:
        """Copy the whole storage behind a tensor, once; as `torch.save` does."""
        import torch

        source = value.untyped_storage()
        key = (value.device, source.data_ptr(), source.nbytes())
        if key not in self._storages:
            is_late = arrives_late(value.device)
            buffer = self._buffer(source.nbytes(), pinned=is_late)
            self._storages[key] = buffer
            if is_late:
                raw = torch.empty(0, dtype=torch.uint8, device=value.device).set_(source)
                buffer.copy_(raw, non_blocking=True)
                self._devices.add(value.device)
            else:
                self.moves.append((buffer.data_ptr(), source.data_ptr(), source.nbytes()))
        return self._storages[key]

    def _buffer(self, size_bytes: int, pinned: bool) -> torch.Tensor:
        import torch

        free = self._free.get((size_bytes, pinned))
        buffer = (
            free.pop() if free else torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned)
        )
        self.used[size_bytes, pinned].append(buffer)
        return buffer


def _move(moves: list[tuple[int, int, int]]) -> None:
    """Copy within the CPU's memory, large amounts on a few threads, for one cannot use all of it.

    torch's own copy does so too, but waits for each of its threads at each tensor: where the cores
    are shared with the workers of a loader, it took three times as long.
    """
    if sum(size for *_, size in moves) < _WORTH_THREADS:
        for move in moves:
            ctypes.memmove(*move)
        return
    pieces = [
        (target + start, source + start, min(_PIECE, size - start))
        for target, source, size in moves
        for start in range(0, size, _PIECE)
    ]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(lambda piece: ctypes.memmove(*piece), pieces))


def _is_plain(value: torch.Tensor) -> bool:
    """Tell whether a tensor is nothing but a view of its storage."""
    import torch

    return (
        value.layout is torch.strided
        and (value.device.type == "cpu" or arrives_late(value.device))
        and not (value.is_quantized or value.is_conj() or value.is_neg())
    )
