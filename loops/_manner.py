"""In what manner a loader is read: by how many workers, in batches of which size and which order.

A place in the data is a number of batches. Where the manner has changed since the checkpoint, the
same number is another place, and some samples would silently be passed over or come twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils.data import IterableDataset

from eventbus.loops._loader import length_of

__all__ = ["Manner", "manner_of", "refuse_other_manner", "warn_of_other_manner"]

log = logging.getLogger("eventbus.loops")

_COUNTS = ("num_workers", "batch_size")
_ORDER = ("seed", "shuffle")
"""What the order of a sampler depends on, `ResumableSampler`'s and torch's `DistributedSampler`."""

Manner = Mapping[str, int | str]


def manner_of(loader: Any) -> dict[str, int | str]:
    """Return `num_workers`, `batch_size` and what is known of the sampler, as far as there are."""
    batches = getattr(loader, "batch_sampler", None)
    sampler = getattr(batches, "sampler", getattr(loader, "sampler", None))
    counts = {name: getattr(loader, name, None) for name in _COUNTS}
    if counts["batch_size"] is None:  # a loader that was given its batch sampler
        counts["batch_size"] = getattr(batches, "batch_size", None)
    order = {f"sampler.{name}": getattr(sampler, name, None) for name in _ORDER}
    known = {**counts, **order, "len(sampler)": length_of(sampler)}
    kind: dict[str, int | str] = {} if sampler is None else {"sampler": type(sampler).__name__}
    return {**kind, **{name: one for name, one in known.items() if isinstance(one, int)}}


def refuse_other_manner(loader: Any, before: Manner) -> None:
    """Raise `ValueError` where a loader cannot take the state of one that was read otherwise."""
    for name, was, now in _changes(loader, before, _COUNTS):
        raise ValueError(
            f"the loader's state in the checkpoint is of one with {name}={was}, and this one has "
            f"{now}: give it {name}={was} (a DataLoader with sampler=ResumableSampler(...) from "
            "eventbus.loops goes on with any number of workers)"
        )


def warn_of_other_manner(loader: Any, before: Manner) -> None:
    """Warn where a number of batches may no longer be the same samples.

    Workers share a map-style dataset batch by batch, in one order however many they are; of an
    iterable one each reads its own part.
    """
    is_iterable = isinstance(getattr(loader, "dataset", None), IterableDataset)
    for name, was, now in _changes(loader, before, tuple(before)):
        if name != "num_workers" or is_iterable:
            log.warning(
                "the loader had %s=%s when the checkpoint was saved and has %s now: its place is a "
                "number of batches, so samples of this epoch may be passed over or come twice",
                name,
                was,
                now,
            )
            return  # one is enough: a changed sampler may differ in all


def _changes(
    loader: Any, before: Manner, names: Iterable[str]
) -> Iterable[tuple[str, int | str, int | str]]:
    now = manner_of(loader)
    known = [name for name in names if name in before and name in now]
    return [(name, before[name], now[name]) for name in known if before[name] != now[name]]
