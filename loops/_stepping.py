"""Whether an optimizer has stepped within the step under way: its weights are then the next ones'.

A checkpoint that is made there would hold weights of a step that does not count yet, and a resumed
run would take that step twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from eventbus.loops._spans import Spans

__all__ = ["note_steps"]


def note_steps(spans: Spans, optimizers: Iterable[Any]) -> list[RemovableHandle]:
    """Have each step of torch's optimizers noted on the batch under way; return the hooks."""

    def note(*stepped: Any) -> None:
        if spans.batch is not None:
            spans.batch.has_stepped = True

    own = [_own(one) for one in optimizers]
    return [one.register_step_post_hook(note) for one in own if isinstance(one, Optimizer)]


def _own(optimizer: Any) -> Any:
    """Return the optimizer that does the work, of one that Accelerate has wrapped."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if isinstance(inner, Optimizer) else optimizer
