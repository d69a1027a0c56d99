"""What a checkpoint takes from the signal that it is saved on: facts."""

from __future__ import annotations

import functools
import platform
import secrets
import sys
from datetime import UTC, datetime
from importlib import metadata

from eventbus import Event, Stop

from ._checkpoint_manifest import Manifest
from ._monitor import Monitor, as_numbers

__all__ = ["draft_of", "has_other_ranks", "run_name", "stop_reason"]


def draft_of(
    event: Event, monitor: Monitor | None, series: str | None, *, is_stale: bool = False
) -> Manifest:
    """Gather what the manifest says of a save on this signal; the files are not known yet.

    Parameters
    ----------
    is_stale
        The monitored metric tells of other weights: the save is no candidate for the best.
    """
    import torch

    return Manifest(
        id=secrets.token_hex(16),
        epoch=event.fields.get("epoch"),
        step=event.fields.get("step"),
        metrics=as_numbers(event.fields.get("metrics")),
        run_id=event.context.get("run_id"),
        run=run_name(event),
        saved_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={
            "eventbus": _version(),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        best=None if monitor is None else _rule(monitor, is_stale),
        series=series,
        whole=_is_whole(event),
    )


def _rule(monitor: Monitor, is_stale: bool) -> dict[str, str]:
    rule = {"metric": monitor.metric, "mode": monitor.mode}
    return {**rule, "stale": "of other weights"} if is_stale else rule


def _is_whole(event: Event) -> bool:
    """Tell whether nothing is left to do at this step; after a `Stop` a validation may be."""
    is_completed = event.name == "run_finished" and event.fields.get("reason") == "completed"
    return is_completed or event.name == "epoch_finished"


def run_name(event: Event) -> str | None:
    """Return the name of the run, where it has one: the bus puts the id in the place of none."""
    name, run_id = event.context.get("run"), event.context.get("run_id")
    return None if name == run_id else name


def stop_reason(event: Event) -> str | None:
    """Return the reason of a pending `Stop` of the run where it is the reason of this signal too.

    A failure ends an epoch as a `Stop` does, but for its own reason. With several ranks the `Stop`
    that all agreed on need not be the first that is pending here.
    """
    reasons = [answer.reason for answer in event.emitter.answers if isinstance(answer, Stop)]
    return next((reason for reason in reasons if reason == event.fields.get("reason")), None)


def has_other_ranks() -> bool:
    """Tell whether this process trains together with others."""
    distributed = sys.modules.get("torch.distributed")  # looked up, never imported
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return False
    return int(distributed.get_world_size()) > 1


@functools.cache  # it is looked for on the disk
def _version() -> str:
    try:
        return metadata.version("training-eventbus")
    except metadata.PackageNotFoundError:
        return "not installed"
