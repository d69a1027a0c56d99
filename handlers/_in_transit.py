"""Numbers on their way from a device, which nobody waits for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from eventbus.arrival import arrival, arrives_late

from ._monitor import as_numbers

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["InTransit", "largest_magnitudes", "send"]


class InTransit:
    """Named numbers that are being copied from one device to the host.

    From a CUDA device the copy goes to pinned memory, behind the work that is queued there, and the
    host goes on. From other accelerators the host waits for the copy.

    Parameters
    ----------
    values
        Scalar tensors on one device, by name.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        import torch

        self.names = tuple(values)
        stacked = _stacked(list(values.values()))
        is_late = arrives_late(stacked.device)
        self._host = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=is_late)
        self._host.copy_(stacked, non_blocking=is_late)
        self._copied: Any = arrival(stacked.device) if is_late else None

    def has_arrived(self) -> bool:
        """Tell whether reading would not wait."""
        return self._copied is None or bool(self._copied.query())

    def read(self) -> dict[str, float]:
        """Return the numbers; wait for them where they have not arrived."""
        if self._copied is not None:
            self._copied.synchronize()
        return dict(zip(self.names, self._host.tolist(), strict=True))


def send(values: Mapping[str, Tensor]) -> list[InTransit]:
    """Start copying tensors to the host, those of each device together.

    Scalars travel as they are, others as their largest magnitude: NaN where one element is.

    Examples
    --------
    >>> import torch
    >>> from eventbus.handlers._in_transit import send
    >>> (sent,) = send({"loss": torch.tensor(0.5), "logits": torch.tensor([1.0, -3.0])})
    >>> sent.has_arrived(), sent.read()
    (True, {'loss': 0.5, 'logits': 3.0})
    """
    by_device: dict[Any, dict[str, Tensor]] = {}
    for name, value in values.items():
        if value.numel():
            by_device.setdefault(value.device, {})[name] = _as_scalar(value.detach())
    return [InTransit(numbers) for numbers in by_device.values()]


def largest_magnitudes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the largest magnitude in each tensor, on its device: NaN where one element is.

    One kernel or few for all tensors of a kind. Empty ones are left out.
    """
    import torch

    magnitudes: dict[str, Tensor] = {}
    for named in _by_kind(tensors).values():
        # What `clip_grad_norm_` is made of: one kernel for all, where the device has it.
        norms = torch._foreach_norm(list(named.values()), math.inf)  # pyright: ignore[reportPrivateImportUsage]  # torch has no public one
        magnitudes.update(zip(named, norms, strict=True))
    return magnitudes


def _by_kind(tensors: Mapping[str, Tensor]) -> dict[Any, dict[str, Tensor]]:
    kinds: dict[Any, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        dense = tensor.coalesce().values() if tensor.is_sparse else tensor
        if dense.numel():
            kinds.setdefault((dense.device, dense.dtype), {})[name] = dense
    return kinds


def _as_scalar(value: Tensor) -> Tensor:
    import torch

    if value.numel() == 1 and not value.is_complex():
        return value.reshape(())
    wide = value if value.is_floating_point() or value.is_complex() else value.float()
    magnitude: Tensor = torch.linalg.vector_norm(wide, math.inf)
    return magnitude


def _stacked(values: list[Tensor]) -> Tensor:
    """Put scalars of one device into one vector, in double precision where there is any."""
    import torch

    wide = torch.float32 if values[0].device.type == "mps" else torch.float64
    kinds = {value.dtype for value in values}
    if len(kinds) == 1:
        return torch.stack(values).to(wide)  # one cast, however many there are
    return torch.stack([value.to(wide) for value in values])


def tensors_in(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return those of `values` that are tensors."""
    import torch

    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def numbers_in(values: Mapping[str, Any]) -> dict[str, float]:
    """Return those of `values` that are numbers on the host; numpy's are too."""
    import torch

    on_host = {k: v for k, v in values.items() if not isinstance(v, torch.Tensor)}
    return as_numbers(on_host)


def not_finite(values: Mapping[str, float]) -> dict[str, float]:
    """Return those that are NaN or infinite."""
    return {name: value for name, value in values.items() if not math.isfinite(value)}


def merged(readings: Iterable[InTransit]) -> dict[str, float]:
    """Read all, and wait where that is needed."""
    return {name: value for one in readings for name, value in one.read().items()}
