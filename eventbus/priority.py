"""The bands that say what a handler is for, and so when it runs."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Priority"]


class Priority(IntEnum):
    """Bands of priorities: a higher number runs first, and the gaps are for your own.

    The order makes a checkpoint hold the decision of the same epoch, and keeps a timer from timing
    the loggers.

    Examples
    --------
    >>> from eventbus import EventBus, Priority
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished", priority=Priority.REPORT)
    ... def report(epoch): print("report")
    >>> @bus.on("epoch_finished", priority=Priority.MEASURE + 1)
    ... def measure(epoch): print("measure")
    >>> _ = bus.emit("epoch_finished", epoch=1, step=10)
    measure
    report
    """

    ALTER = 400
    """Changes data, gradients or weights."""
    MEASURE = 200
    """Computes something for others to report."""
    NORMAL = 0
    """What users subscribe, and plain blinker receivers."""
    DECIDE = -200
    """Stops, skips, schedules."""
    REPORT = -400
    """Logs, draws, notifies."""
    PERSIST = -600
    """Saves; so it sees what all others did."""
