"""Hugging Face's Trainer from the inside: it tells its callbacks neither the loss nor itself."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import Trainer

__all__ = ["calling_trainer", "read_labels", "read_outputs", "unscale", "wrap"]


def calling_trainer() -> tuple[Trainer, Mapping[str, Any]]:
    """Return the Trainer that is calling its callbacks, and the variables it does so with.

    It is found up the stack: what callbacks are given holds no way to it.

    Raises
    ------
    RuntimeError
        Something else is calling.
    """
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Trainer):
            return owner, frame.f_locals
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    raise RuntimeError("eventbus.loops.huggingface.Emitter is for a transformers.Trainer to call")


def wrap(trainer: Trainer, name: str, around: Callable[..., Any]) -> None:
    """Have `around` called in the place of a method of this Trainer, with that method put first."""
    call = getattr(trainer, name)

    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(call, *args, **kwargs)

    setattr(trainer, name, wrapped)


def unscale(trainer: Trainer, optimizer: Any) -> None:
    """Undo the scaling of float16 gradients, which the Trainer itself does only when it clips."""
    scaler = getattr(trainer.accelerator, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return
    if not scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"]:  # not done so far
        scaler.unscale_(optimizer)


def read_outputs(outputs: Any) -> Any:
    """Return what a model made of a batch, without the loss that it returns beside.

    Examples
    --------
    >>> import torch
    >>> read_outputs({"loss": torch.tensor(0.5), "logits": torch.ones(1), "hidden_states": ()})
    tensor([1.])
    >>> read_outputs((torch.tensor(0.5), torch.ones(1)))
    tensor([1.])
    """
    if isinstance(outputs, Mapping):
        if "logits" in outputs:
            return outputs["logits"]
        return {key: value for key, value in outputs.items() if key != "loss"}
    if isinstance(outputs, tuple) and outputs and _is_loss(outputs[0]):
        return outputs[1] if len(outputs) == 2 else outputs[1:]
    return outputs


def _is_loss(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 0


def read_labels(batch: Any, names: list[str]) -> Any:
    """Return the targets in a batch: the only one, or all by name; None where there are none."""
    if not isinstance(batch, Mapping):
        return None
    found = {name: batch[name] for name in names if batch.get(name) is not None}
    return next(iter(found.values())) if len(found) == 1 else found or None
