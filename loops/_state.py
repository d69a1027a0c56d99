"""The loop's answers when a checkpoint is made and when one is restored.

A checkpoint handler never meets the loop: it emits `state_requested` and gets these parts, and
`state_restored` brings them back. All of it is tensors and plain Python, which
`torch.load(weights_only=True)` accepts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from eventbus import Emitter, EventBus, RestoredState, State
from eventbus.loops._by_rank import RANKS, gathered, own_share
from eventbus.loops._generators import RandomGenerators
from eventbus.loops._spans import Spans

__all__ = ["LoopState", "named_parts"]

log = logging.getLogger("eventbus.loops")

_TRAINED = ("model", "optimizer", "models", "optimizers")

OWN_KEYS = ("model", "optimizer", "scheduler", "models", "optimizers", "random", "loop", RANKS)


class LoopState:
    """Speaks for a run when its state is asked for and given back.

    Parameters
    ----------
    spans
        Where the run is.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._parts: Mapping[str, Any] = {}
        self._prefix = ""

    def attach(self, bus: EventBus, parts: Mapping[str, Any], prefix: str = "") -> None:
        """Subscribe; a run inside another also answers for checkpoints of the outer run.

        Parameters
        ----------
        parts
            What has a `state_dict`, by key.
        prefix
            Put before each key: the name of a run inside another, and a dot.
        """
        self._parts, self._prefix = {**parts, "random": RandomGenerators()}, prefix
        emitter: Emitter = self._spans.emitter
        senders = (None, emitter.sender) if emitter.inner else (None,)
        for sender in senders:
            bus.on("state_requested", sender=sender, name=f"Run {emitter.sender}")(self.give)
            bus.on("state_restored", sender=sender, name=f"Run {emitter.sender}")(self.take)
        if emitter.inner:
            self.take(bus.restored_state)  # restored before this run was opened

    def detach(self, bus: EventBus) -> None:
        """End the subscriptions."""
        bus.detach(self.give)
        bus.detach(self.take)

    @contextmanager
    def without_parts(self) -> Iterator[None]:
        """Speak for the counts alone: whose loop it is keeps model, optimizer and generators."""
        parts, self._parts = self._parts, {}
        try:
            yield
        finally:
            self._parts = parts

    def give(self) -> list[State]:
        """Answer `state_requested`."""
        parts = {key: part.state_dict() for key, part in self._parts.items()}
        parts = self._spans.schedules.as_kept(parts)
        parts["loop"] = self._spans.state()
        before = self._spans.generators_before
        if before is not None and "random" in parts:
            parts["random"] = {**parts["random"], **before}
        if self._spans.ranks is not None:
            parts = gathered(parts, self._spans.ranks)
        exact = self._spans.is_exact or not self._is_innermost
        return [State(self._prefix + key, value, exact=exact) for key, value in parts.items()]

    @property
    def _is_innermost(self) -> bool:
        """False for a run in whose body the one is that a checkpoint is made of."""
        emitter = self._spans.emitter
        return emitter.bus.open_runs[-1:] == (emitter,)

    def take(self, state: RestoredState, path: str | None = None) -> None:
        """Take this run's parts on `state_restored`.

        Once the run is under way its counts stay: data and time do not go back.

        Raises
        ------
        ValueError
            A model or an optimizer of the run is not in the checkpoint, and nothing was taken: it
            would go on from the counts of a training that it has not had.
        """
        for key in self._parts:
            if key.partition(".")[0] in _TRAINED and self._lacks(state, key):
                raise ValueError(_not_there(self._prefix + key, state, path))
        share = own_share(state, self._prefix, self._spans.ranks)
        for key, part in self._parts.items():
            if self._lacks(state, key):
                log.warning(
                    "the restored state has no part %r, which goes on as it is", self._prefix + key
                )
            elif self._prefix + key in state:
                value = share.get(key, state.take(self._prefix + key))
                if value is not None or key not in share:
                    _load(part, value, self._prefix + key)
        position = share.get("loop", state.take(self._prefix + "loop"))
        if position is not None and not self._spans.has_started:
            self._spans.restore(position)

    def _lacks(self, state: RestoredState, key: str) -> bool:
        """Tell whether a part is missing; a checkpoint of something else (weights alone) has none.

        Half of ours is a mistake.
        """
        return self._prefix + key not in state and self._prefix + "loop" in state


def named_parts(
    single: Mapping[str, Any],
    several: Mapping[str, Mapping[str, Any] | None],
    extra: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return all that has a `state_dict`, by the key of its part."""
    for name, given in {**several, "state": extra}.items():
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{name}= takes a dict, by name; got {given!r}")
    parts = {key: part for key, part in single.items() if hasattr(part, "state_dict")}
    for group, members in several.items():
        for name, part in (members or {}).items():
            if hasattr(part, "state_dict"):
                parts[f"{group}.{name}"] = part
    for key, part in (extra or {}).items():
        parts[_checked_key(key, part)] = part
    return parts


def _checked_key(key: str, part: Any) -> str:
    if key.partition(".")[0] in OWN_KEYS:
        raise ValueError(f"state={{{key!r}: ...}}: {key!r} is a key of the Run's own; take another")
    for method in ("state_dict", "load_state_dict"):
        if not callable(getattr(part, method, None)):
            raise TypeError(f"state={{{key!r}: ...}} needs a {method}; got {part!r}")
    return key


def _not_there(key: str, state: RestoredState, path: str | None) -> str:
    there = ", ".join(sorted(state))
    return (
        f"the run has a {key!r}, and the checkpoint {path or 'that it goes on from'} has no such "
        f"part; it has: {there}. Give the run the models and optimizers that it was saved with, "
        "or let it start afresh and load what you want of these parts yourself"
    )


def _load(part: Any, value: Any, key: str) -> None:
    try:
        part.load_state_dict(value)
    except Exception as error:
        error.add_note(f"while restoring {key!r}")
        raise
