"""Whether an optimizer has stepped within the step under way: its weights are then the next ones'.

A checkpoint that is made there would hold weights of a step that does not count yet, and a resumed
run would take that step twice. And one that steps where the step is skipped has done what is told
as not done.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from eventbus.loops._spans import Spans

__all__ = ["note_steps"]


def note_steps(spans: Spans, optimizers: Iterable[Any]) -> list[RemovableHandle]:
    """Have each step of the optimizers noted on the batch under way; return the hooks.

    Not seen are those that are not torch's, or step without `step`, and a step that a gradient
    scaler leaves out.
    """

    def note(*stepped: Any) -> None:
        batch = spans.batch
        if batch is not None:
            batch.has_stepped = spans.has_stepped = True
            if batch.is_not_to_step:
                spans.hints.stepped(batch)

    hooks: list[RemovableHandle] = []
    for optimizer in {id(one): one for given in optimizers for one in _within(given)}.values():
        with suppress(AttributeError):  # a wrapper that is an optimizer by name alone
            hooks.append(optimizer.register_step_post_hook(note))
    return hooks


def _within(optimizer: Any) -> list[Optimizer]:
    """Return an optimizer and what it wraps, as Accelerate's does and SAM: one of them steps."""
    inner = [getattr(optimizer, name, None) for name in ("optimizer", "base_optimizer")]
    return [one for one in (optimizer, *inner) if isinstance(one, Optimizer)]
