"""What a loop is known not to serve, because its framework sets limits."""

from __future__ import annotations

from collections.abc import Collection

from eventbus.errors import did_you_mean

__all__ = ["Limits"]

SIGNALS = ("loader_opened", "batch_loaded", "batch_started", "backward_finished", "run_failed")
"""Signals that a loop may be unable to emit and be right in all else."""

PLACES = {
    "Stop": ("batch_finished", "epoch_finished"),
    "StopEpoch": ("batch_finished",),
    "SkipBatch": ("batch_loaded", "batch_started", "backward_finished"),
}
"""Answers, and the signals at which a loop may be unable to serve them."""


class Limits:
    """The names that were given as `cannot=`, checked.

    Examples
    --------
    >>> limits = Limits({"StopEpoch", "SkipBatch at batch_loaded"})
    >>> limits.serves("StopEpoch"), limits.serves("SkipBatch")
    (False, True)
    >>> limits.serves("SkipBatch", "batch_loaded"), limits.serves("SkipBatch", "batch_started")
    (False, True)
    """

    def __init__(self, names: Collection[str] = ()) -> None:
        if isinstance(names, str):
            raise TypeError(f"cannot= takes a set of names; got the string {names!r}")
        places = [f"{answer} at {at}" for answer, signals in PLACES.items() for at in signals]
        known = (*PLACES, *places, *SIGNALS)
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known)
                raise ValueError(
                    f"cannot= does not know {name!r}{hint} (it is: {', '.join(known)})"
                )
        self.names = frozenset(names)

    def serves(self, what: str, at: str = "") -> bool:
        """Tell whether an answer is served, or a signal emitted, as far as was said."""
        return what not in self.names and f"{what} at {at}" not in self.names
