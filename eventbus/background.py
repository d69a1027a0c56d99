"""What `background=` takes: how a handler is called off the loop's thread."""

from __future__ import annotations

from typing import Any, get_args

from eventbus.backlog import Overflow
from eventbus.calling import Wants
from eventbus.errors import HandlerError
from eventbus.frozen import Frozen

__all__ = ["HELD", "Background", "as_background", "refuse_held"]

HELD = frozenset({"model", "models", "optimizer", "optimizers", "scheduler"})
"""What the loop goes on changing: not for a handler that works meanwhile."""


class Background(Frozen):
    """How a handler is called off the loop's thread: `background=Background(size=64)`.

    It has one thread and a bounded queue, and the loop does not wait for it (but where the queue is
    full, with `overflow="block"`). An object whose methods are
    marked has one of each for all of them, so they run in order and never at once. Tensors and
    arrays that a handler names, also within lists, tuples and dicts, are copied to host memory
    before the loop goes on; what is in other objects is as the loop has it by then; `model`,
    `optimizer`, `scheduler` and their plurals it cannot name. Its answers take effect at a coming
    safe point. Its failures are raised at the next emission that it hears, or told of there where
    it is isolated, and at the end of the run. What it emits is no part of the run.

    Parameters
    ----------
    size
        How many emissions may wait, at least 1.
    overflow
        What happens when one more comes: "drop_oldest" drops the one that waits longest; "latest"
        keeps only the newest at all times, whatever the size; "block" makes the loop wait.
        `bus.describe()` and the log tell how many were dropped.
    timeout_s
        How long `run_closed`, a checkpoint that asks for the handler's state, and the end of the
        process wait for what is not done yet, in seconds.

    Examples
    --------
    >>> from eventbus import Background, EventBus
    >>> bus, uploaded = EventBus(), []
    >>> @bus.on("epoch_finished", background=Background(size=8, timeout_s=60))
    ... def upload(epoch): uploaded.append(epoch)
    >>> loop = bus.bind(sender="train")
    >>> for epoch in (1, 2): _ = loop.emit("epoch_finished", epoch=epoch, step=10 * epoch)
    >>> _ = loop.emit("run_closed", outcome="completed")
    >>> uploaded
    [1, 2]
    >>> print(bus)
    epoch_finished
         0  upload  background
    """

    size: int
    overflow: Overflow
    timeout_s: float

    def __init__(
        self, size: int = 1024, overflow: Overflow = "drop_oldest", timeout_s: float = 10.0
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size is a whole number from 1 on, got {size!r}")
        if overflow not in get_args(Overflow):
            known = ", ".join(f'"{each}"' for each in get_args(Overflow))
            raise ValueError(f"overflow is one of {known}; got {overflow!r}")
        if not isinstance(timeout_s, int | float) or not 0 <= timeout_s < float("inf"):
            raise ValueError(f"timeout_s is a number of seconds from 0 on, got {timeout_s!r}")
        self._set(size=size, overflow=overflow, timeout_s=timeout_s)


def as_background(given: Any) -> Background | None:
    """Return the options that `background=` stands for; None for a handler on the loop's thread."""
    if given is None or given is False:
        return None
    if given is True:
        return Background()
    if not isinstance(given, Background):
        raise TypeError(f"background is True, False or a Background(...), got {given!r}")
    return given


def refuse_held(wants: Wants) -> None:
    """Refuse a handler that asks for what the loop changes while the handler works."""
    for want in wants.each:
        if want.name in HELD:
            raise HandlerError(
                f"{wants.label} is in the background and asks for {want.name!r}, which the loop "
                "changes meanwhile: leave one of them out",
                handler=wants.label,
            )
