"""Tensors that fail the test when somebody waits for their device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

READING: set[Any] = {
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.cpu,
    torch.Tensor.numpy,
    torch.Tensor.__bool__,
    torch.Tensor.__float__,
    torch.Tensor.__int__,
    torch.Tensor.__index__,
    torch.Tensor.__contains__,
    torch.Tensor.is_nonzero,
    torch.Tensor.equal,
    torch.Tensor.nonzero,
    torch.Tensor.masked_select,
    torch.Tensor.unique,
    torch.Tensor.bincount,
    torch.equal,
    torch.allclose,
    torch.nonzero,
    torch.masked_select,
    torch.unique,
    torch.bincount,
    torch.nn.functional.one_hot,
}
"""What needs a value, or a shape that depends on values: on a GPU each of them waits."""


class WaitedError(AssertionError):
    """Somebody read a tensor that was to stay on its device."""


class Unread(torch.Tensor):
    """A tensor that may be computed with, but not read; so is all that is computed from it."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in READING or (func is torch.Tensor.__getitem__ and _is_mask(args[1])):
            raise WaitedError(getattr(func, "__name__", repr(func)))
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]  # torch's


def _is_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts)


def unread(values: Any) -> Unread:
    """Return a tensor with these values that nobody may read."""
    tensor = values.detach().clone() if isinstance(values, torch.Tensor) else torch.tensor(values)
    return tensor.as_subclass(Unread)


def read(tensor: torch.Tensor) -> torch.Tensor:
    """Return the plain tensor behind one that nobody may read, for the test to look at."""
    return tensor.as_subclass(torch.Tensor)
