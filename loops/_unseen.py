"""What a Run cannot see of a loader, and so cannot bring back, in words for a resumed run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eventbus.loops._own_generators import held_generators, samplers_of

__all__ = ["unseen"]

_KNOWN = ("accelerate", "eventbus", "torch", "torchdata")
"""Packages whose samplers draw from the global generators, from `generator` or from their epoch."""


def unseen(loader: Any) -> str:
    """Return where the order depends on what cannot be seen, as a clause; "" where all can be."""
    kind = type(loader).__name__
    if isinstance(loader, Iterator):
        return (
            f"the samplers and generators within the {kind} cannot be seen: its order is exact "
            "only where it is drawn from the global random generators, or begins here as it did "
            "before (give run.batches the loader itself, or an object with __iter__ and set_epoch)"
        )
    for sampler in samplers_of(loader):
        if _is_of_its_own(sampler):
            return (
                f"the order of {type(sampler).__name__} is exact only where it is drawn from the "
                "global random generators, or is the same in each pass (a sampler of your own with "
                "set_epoch(epoch) is exact that draws its order from the epoch alone)"
            )
    return ""


def _is_of_its_own(sampler: Any) -> bool:
    """Tell whether nothing is known of how a sampler comes to its order."""
    is_known = type(sampler).__module__.partition(".")[0] in (*_KNOWN, "builtins")
    return not is_known and not hasattr(sampler, "set_epoch") and not held_generators(sampler)
