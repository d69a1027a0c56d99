"""The signals that a Run emits itself: a loop that emitted one as well would double it."""

from __future__ import annotations

from typing import Any

__all__ = ["check_not_own"]

_RUN = "`with Run(bus) as run:` opens and closes it, and `run.report(...)` gives it metrics"
_EPOCH = "iterate over `run.epochs(n)`, and `run.report(...)` gives it metrics"
_BATCH = "iterate over `run.batches(loader)`, and `run.report(...)` gives it metrics"
_SKIPPED = "`run.skip(reason)` has it emitted"
_VALIDATION = "iterate over `run.validate(loader)`, and `run.report(...)` gives it metrics"

INSTEAD = {
    "run_opened": _RUN,
    "run_started": _RUN,
    "run_finished": _RUN,
    "run_failed": _RUN,
    "run_closed": _RUN,
    "epoch_started": _EPOCH,
    "epoch_finished": _EPOCH,
    "epoch_interrupted": _EPOCH,
    "batch_started": _BATCH,
    "batch_finished": _BATCH,
    "batch_skipped": _SKIPPED,
    "validation_started": _VALIDATION,
    "validation_batch_finished": _VALIDATION,
    "validation_done": _VALIDATION,
    "validation_interrupted": _VALIDATION,
}
"""What to write in place of emitting it."""

_OF_BATCHES = ("loader_opened", "batch_loaded")


def check_not_own(signal: Any, *, in_batches: bool = False) -> None:
    """Refuse a signal, by name or declaration, that the Run emits at its time.

    Parameters
    ----------
    in_batches
        True in the body of a loop over batches, whose loader and batches have been offered.

    Raises
    ------
    ValueError
        It is such a one.
    """
    name = getattr(signal, "name", signal)
    if name in INSTEAD:
        raise ValueError(f"Run emits {name} itself: {INSTEAD[name]}")
    if in_batches and name in _OF_BATCHES:
        raise ValueError(f"Run emits {name} itself, for what `run.batches(loader)` reads")
