"""In what manner a loader is read: by how many workers, and in batches of which size.

A place in the data is a number of batches. Where the manner has changed since the checkpoint, the
same number is another place, and some samples would silently be passed over or come twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils.data import IterableDataset

__all__ = ["manner_of", "refuse_other_manner", "warn_of_other_manner"]

log = logging.getLogger("eventbus.loops")

_COUNTS = ("num_workers", "batch_size")


def manner_of(loader: Any) -> dict[str, int]:
    """Return `num_workers` and `batch_size`, as far as the loader has them."""
    counts = {name: getattr(loader, name, None) for name in _COUNTS}
    return {name: count for name, count in counts.items() if type(count) is int}


def refuse_other_manner(loader: Any, before: Mapping[str, int]) -> None:
    """Raise `ValueError` where a loader cannot take the state of one that was read otherwise."""
    for name, was, now in _changes(loader, before):
        raise ValueError(
            f"the loader's state in the checkpoint is of one with {name}={was}, and this one has "
            f"{now}: give it {name}={was} (a DataLoader with sampler=ResumableSampler(...) from "
            "eventbus.loops goes on with any number of workers)"
        )


def warn_of_other_manner(loader: Any, before: Mapping[str, int]) -> None:
    """Warn where a number of batches may no longer be the same samples.

    Workers share a map-style dataset batch by batch, in one order however many they are; of an
    iterable one each reads its own part.
    """
    is_iterable = isinstance(getattr(loader, "dataset", None), IterableDataset)
    for name, was, now in _changes(loader, before):
        if name == "batch_size" or is_iterable:
            log.warning(
                "the loader had %s=%d when the checkpoint was saved and has %d now: its place is a "
                "number of batches, so samples of this epoch may be passed over or come twice",
                name,
                was,
                now,
            )


def _changes(loader: Any, before: Mapping[str, int]) -> Iterable[tuple[str, int, int]]:
    now = manner_of(loader)
    known = [name for name in before if name in now]
    return [(name, before[name], now[name]) for name in known if before[name] != now[name]]
