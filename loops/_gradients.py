"""Before the optimizer of a foreign loop steps: tell of the gradients, or keep it still."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

    from eventbus.loops._relay import Relay

__all__ = ["drop_gradients", "hold_gradients", "tell_before_step"]


def drop_gradients(optimizer: Optimizer) -> None:
    """Have the step that follows do nothing: torch's optimizers pass over what has no gradient.

    No parameter moves, and no momentum, moment or step count of one does.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def hold_gradients(optimizers: Iterable[Any]) -> list[RemovableHandle]:
    """Have each backward add zeros to the gradients until the hooks that this returns are removed.

    For a micro-batch that is passed over: what those before it have left stays as it is, whatever
    this one makes of them, not-a-number too.
    """
    return [
        parameter.register_hook(torch.zeros_like)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    ]


def tell_before_step(
    relay: Relay, optimizers: Iterable[Optimizer], loss: Callable[[], Any] = lambda: None
) -> list[RemovableHandle]:
    """Have `relay` tell of the gradients before each step of the optimizers; return the hooks.

    Parameters
    ----------
    loss
        Called for the loss of the step.
    """

    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        if relay.is_open and not relay.gradients_ready(loss()):
            drop_gradients(optimizer)

    return [optimizer.register_step_pre_hook(before) for optimizer in optimizers]
