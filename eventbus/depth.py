"""How deep emissions may lead to emissions; a cycle of them is named long before Python's limit."""

from __future__ import annotations

from collections.abc import Sequence

from eventbus.errors import SignalError

__all__ = ["DEPTH_LIMIT", "refuse_depth"]

DEPTH_LIMIT = 50
"""Emissions inside emissions, or from background handlers that an emission has called."""


def refuse_depth(names: Sequence[str]) -> None:
    """Raise `SignalError` where too many emissions led to one, by their names, its own first."""
    if len(names) <= DEPTH_LIMIT:
        return
    name = names[0]
    again = names.index(name, 1) if name in names[1:] else len(names) - 1
    chain = " inside ".join(names[: again + 1])
    raise SignalError(
        f"emissions inside emissions, {DEPTH_LIMIT} deep: {chain}, and so on; a handler emits what "
        "leads back to it",
        signal=name,
    )
