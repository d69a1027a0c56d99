"""What a handler asks of a scheduler of `torch.optim.lr_scheduler`."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from ._monitor import Monitor

__all__ = ["check_scheduler", "step_first"]

_USED = ("optimizer", "step", "state_dict", "load_state_dict")  # of any scheduler


def check_scheduler(scheduler: Any, monitor: Monitor | None) -> None:
    """Refuse what is no scheduler, or one that is not stepped with what there is.

    Raises
    ------
    TypeError
        It has not what every scheduler has.
    ValueError
        It wants a metric and none was named, or the reverse.
    """
    if isinstance(scheduler, type) or not all(hasattr(scheduler, part) for part in _USED):
        raise TypeError(
            "LRSchedule takes what makes a scheduler, lambda optimizer: StepLR(optimizer, 30); "
            f"what it made is {scheduler!r}"
        )
    kind = type(scheduler)
    takes = [
        name for name in inspect.signature(kind.step).parameters if name not in ("self", "epoch")
    ]
    if takes and monitor is None:
        raise ValueError(f"{kind.__name__} is stepped with a metric: name it, metric='val_loss'")
    if monitor is not None and not takes:
        raise ValueError(f"{kind.__name__} takes no metric; got metric={monitor.metric!r}")


def step_first(scheduler: Any, values: tuple[float, ...]) -> None:
    """Step a scheduler for the first time, without torch's warning.

    It warns, this once, where the optimizer has not stepped before. Here the signals keep the
    order, and an epoch may well be empty, or all of its batches skipped.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        scheduler.step(*values)
