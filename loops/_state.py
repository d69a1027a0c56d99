"""The loop's answers when a checkpoint is made and when one is restored.

A checkpoint handler never meets the loop: it emits `state_requested` and gets these parts, and
`state_restored` brings them back. All of it is tensors and plain Python, which
`torch.load(weights_only=True)` accepts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from eventbus import Emitter, EventBus, RestoredState, State
from eventbus.loops._by_rank import gathered, own_share
from eventbus.loops._generators import RandomGenerators
from eventbus.loops._spans import Spans

__all__ = ["LoopState"]

log = logging.getLogger("eventbus.loops")

_TRAINED = ("model", "optimizer", "models", "optimizers")
"""Parts without which a run has not had the training that a checkpoint counts."""


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
        self._gaps: Sequence[str] = ()

    def attach(
        self,
        bus: EventBus,
        parts: Mapping[str, Any],
        prefix: str = "",
        gaps: Sequence[str] = (),
    ) -> None:
        """Subscribe; a run inside another also answers for checkpoints of the outer run.

        Parameters
        ----------
        parts
            What has a `state_dict`, by key.
        prefix
            Put before each key: the name of a run inside another, and a dot.
        gaps
            What to warn of where state is first asked for.
        """
        self._parts, self._prefix = {**parts, "random": RandomGenerators()}, prefix
        self._gaps = gaps
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
        self._tell_of_gaps()
        parts = {key: part.state_dict() for key, part in self._parts.items()}
        parts = self._spans.schedules.as_kept(parts)
        parts["loop"] = self._spans.position.state()
        before = self._spans.place.draws.ahead or self._spans.generators_before
        if before and "random" in parts:
            parts["random"] = {**parts["random"], **before}
        if self._spans.ranks is not None:
            parts = gathered(parts, self._spans.ranks)
        exact = self._spans.position.is_exact or not self._is_innermost
        return [State(self._prefix + key, value, exact=exact) for key, value in parts.items()]

    def _tell_of_gaps(self) -> None:
        if self._parts:  # else whose loop it is keeps them
            gaps, self._gaps = self._gaps, ()
            for gap in gaps:
                log.warning(gap)

    @property
    def _is_innermost(self) -> bool:
        """False for a run in whose body the one is that a checkpoint is made of."""
        emitter = self._spans.emitter
        return emitter.bus.open_runs[-1:] == (emitter,)

    def take(self, state: RestoredState, path: str | None = None) -> None:
        """Take this run's parts on `state_restored`.

        Once the run is under way its counts stay: data and time do not go back.

        Parameters
        ----------
        path
            Of the checkpoint that the state is from, for messages.

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
            elif self._has(state, key):
                value = share.get(key, state.take(self._prefix + key))
                if value is not None or key not in share:
                    _load(part, value, self._prefix + key, path)
        position = share.get("loop", state.take(self._prefix + "loop"))
        if self._spans.has_started:
            return
        if position is not None:
            self._spans.position.restore(position)
        elif path is not None and (taken := [key for key in self._parts if self._has(state, key)]):
            log.warning(_placeless(self._prefix, taken, path))

    def _has(self, state: RestoredState, key: str) -> bool:
        return self._prefix + key in state

    def _lacks(self, state: RestoredState, key: str) -> bool:
        """Tell whether a part is missing; a checkpoint of something else (weights alone) has none.

        Half of ours is a mistake.
        """
        return not self._has(state, key) and self._has(state, "loop")


def _not_there(key: str, state: RestoredState, path: str | None) -> str:
    there = ", ".join(sorted(state))
    return (
        f"the run has a {key!r}, and the checkpoint {path or 'that it goes on from'} has no such "
        f"part; it has: {there}. Give the run the models and optimizers that it was saved with, "
        "or let it start afresh and load what you want of these parts yourself"
    )


def _placeless(prefix: str, taken: Sequence[str], path: str) -> str:
    names = ", ".join(repr(prefix + key) for key in taken)
    return (
        f"the checkpoint {path} has {names} but no part {prefix + 'loop'!r}, which says how far it "
        "has come: the run counts from epoch 1 and step 1 on (a loop by hand that saves answers "
        f"State({prefix + 'loop'!r}, {{'epoch': ..., 'step': ...}}) too, of what it has finished)"
    )


def _load(part: Any, value: Any, key: str, path: str | None) -> None:
    needed = tuple(part.defaults) if _is_torchs(part) else ()  # torch adds to them as it loads
    try:
        part.load_state_dict(value)
        _check_kind(part, needed)
    except Exception as error:
        source = "" if path is None else f" from {path}"
        error.add_note(f"while restoring {key!r}{source}: {_what_to_do(part, value)}")
        raise


def _what_to_do(part: Any, value: Any) -> str:
    saved = len(value.get("param_groups", ())) if isinstance(value, Mapping) else 0
    here = len(getattr(part, "param_groups", ()))
    if saved and here and saved != here:
        return (
            f"saved with {saved} parameter groups, here {here}: have all of them before the Run is "
            "opened, those of later epochs too (frozen until then)"
        )
    return "is it made as it was when that was saved, of the same class and sizes?"


def _is_torchs(part: Any) -> bool:
    return isinstance(part, Optimizer) and type(part).__module__.startswith("torch.optim.")


def _check_kind(part: Any, needed: Sequence[str]) -> None:
    """Refuse the state of another optimizer, which torch's take; they would fail as they step."""
    missing = [key for key in needed if any(key not in one for one in part.param_groups)]
    if missing:
        kind = type(part).__name__
        raise ValueError(
            f"the restored state is that of another optimizer than {kind}, which needs "
            f"{', '.join(missing)}"
        )
