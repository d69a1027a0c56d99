"""The state of a run that differs by rank: its random generators, and its place in the data.

Model, optimizer, schedule and handlers are alike on all ranks, or have to be, and are saved as rank
0 has them. What is here is gathered from each rank at a save, and each takes its own back.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from eventbus import RestoredState

if TYPE_CHECKING:
    from eventbus.loops._ranks import Ranks

__all__ = ["RANKS", "gathered", "own_share"]

log = logging.getLogger("eventbus.loops")

RANKS = "ranks"
"""The key under which the shares of all ranks are kept, in their order."""

_DIFFERENT = ("random", "loop")


def gathered(parts: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Return the parts with the shares of all ranks; on the first rank alone, which writes.

    Collective: all ranks save alike.
    """
    share = {key: parts[key] for key in _DIFFERENT if key in parts}
    shares = ranks.gather(_packed(share))
    if ranks.exchange.rank != ranks.exchange.ranks[0]:
        return dict(parts)
    return {**parts, RANKS: [_unpacked(share) for share in shares]}


def own_share(state: RestoredState, prefix: str, ranks: Ranks | None) -> Mapping[str, Any]:
    """Return what this rank has to take in the place of what rank 0 had.

    From a checkpoint of another number of ranks: None for the generators, which go on as they are,
    and the counts alone for the loop, which begins the epoch that was under way anew.
    """
    shares = state.take(prefix + RANKS)
    numbers = (None,) if ranks is None else ranks.exchange.ranks
    saved = 1 if shares is None else len(shares)
    if prefix + "loop" not in state or saved == len(numbers):
        return {} if shares is None or ranks is None else shares[numbers.index(ranks.exchange.rank)]
    loop = {key: part for key, part in state[prefix + "loop"].items() if key != "position"}
    log.warning(
        "the checkpoint is of %d %s and this run of %d: its random generators go on as they are, "
        "and an epoch that was under way begins anew",
        saved,
        "rank" if saved == 1 else "ranks",
        len(numbers),
    )
    return {"random": None, "loop": loop}


def _packed(share: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(share, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> dict[str, Any]:
    share: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return share
