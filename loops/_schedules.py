"""Schedulers as a resumed run is to find them: it goes through the body of the epoch again.

What a body does outside of its loops it does once more in a run that resumes within that epoch:
`scheduler.step()` at its end, as a rule. So a checkpoint of an epoch that is not finished holds
the schedulers, and the rates that they set, as they were before that. What changes them within a
loop over batches, or as a handler of a validation, is not done again, and stays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["Schedules"]

MOVED = ("lr", "momentum", "betas")
"""What schedulers change in the groups of an optimizer."""


class Schedules:
    """Follows each scheduler of one run through the bodies of its epochs.

    Nothing is read from a device. A scheduler whose state cannot be told, or whose optimizer is not
    among the parts, is not followed.

    Parameters
    ----------
    parts
        What has a `state_dict`, by key.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        optimizers = {key: one for key, one in parts.items() if _has_groups(one)}
        found = {key: one for key, one in parts.items() if _is_scheduler(key, one)}
        self._followed: list[Followed] = []
        for key, scheduler in found.items():
            for own in _optimizers_of(scheduler, optimizers):
                self._followed.append(Followed(key, scheduler, own, optimizers[own]))

    def begin_epoch(self) -> None:
        """The body is at its top."""
        for one in self._followed:
            one.keep()

    def leave_body(self) -> None:
        """A loop in the body begins, or the body has come to its end."""
        for one in self._followed:
            one.note_changes_of_the_body()

    def go_back(self) -> None:
        """A loop in the body is over, and the body goes on."""
        for one in self._followed:
            one.note_changes_of_a_loop()

    def end_epoch(self) -> None:
        """The epoch is finished: its body is not gone through again."""
        for one in self._followed:
            one.forget()

    def as_kept(self, states: dict[str, Any]) -> dict[str, Any]:
        """Return the states of all parts, with those of schedulers and rates as a checkpoint."""
        for one in self._followed:
            states = one.as_kept(states)
        return states


class Followed:
    """One scheduler and its optimizer.

    Parameters
    ----------
    key, optimizer_key
        Of their states.
    """

    def __init__(self, key: str, scheduler: Any, optimizer_key: str, optimizer: Optimizer) -> None:
        self._key, self._scheduler = key, scheduler
        self._optimizer_key, self._optimizer = optimizer_key, optimizer
        self.forget()

    def forget(self) -> None:
        """Follow it no further in this epoch."""
        self._kept: tuple[Any, list[dict[str, Any]]] | None = None
        self._seen: Any = None  # as they were when the body was last left or gone back to
        self._has_changed = False  # the body has stepped the scheduler since they were kept

    def keep(self) -> None:
        """Keep both as the body is to find them again."""
        self.forget()
        now = self._now()
        if now is not None:
            self._seen, self._kept = _marked(now), _copied(now)

    def note_changes_of_the_body(self) -> None:
        """Tell whether the body has stepped the scheduler; what else it sets is its own affair."""
        now = None if self._kept is None else _marked(self._now())
        if now is None:
            self.forget()
            return
        self._has_changed = self._has_changed or now[0] != self._seen[0]
        self._seen = now

    def note_changes_of_a_loop(self) -> None:
        """Keep what a loop has changed: where both did, that is not done again."""
        if self._kept is not None and not (self._has_changed and self._is_as_seen()):
            self.keep()

    def as_kept(self, states: dict[str, Any]) -> dict[str, Any]:
        """Put what was kept into the states, where the body has changed it since."""
        if self._kept is None or not self._has_changed or not self._is_as_seen():
            return states
        state, rates = self._kept
        optimizer = states[self._optimizer_key]
        groups = optimizer.get("param_groups", ())
        if len(groups) != len(rates):  # the body has added one, and will again
            return states
        merged = [{**group, **rate} for group, rate in zip(groups, rates, strict=True)]
        return {
            **states,
            self._key: state,
            self._optimizer_key: {**optimizer, "param_groups": merged},
        }

    def _is_as_seen(self) -> bool:
        return bool(_marked(self._now()) == self._seen)

    def _now(self) -> tuple[Any, list[dict[str, Any]]] | None:
        groups = self._optimizer.param_groups
        rates = [{key: group[key] for key in MOVED if key in group} for group in groups]
        with suppress(Exception):  # what cannot be told concerns whoever saves it
            return self._scheduler.state_dict(), rates
        return None


class Same:
    """Stands for an object by its identity, and for a tensor by what was written to it, too."""

    __slots__ = ("thing", "version")

    def __init__(self, thing: Any) -> None:
        self.thing = thing  # held, so that no other object gets its address
        self.version = thing._version if isinstance(thing, Tensor) else 0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same):
            return False
        return self.thing is other.thing and self.version == other.version

    __hash__ = None  # type: ignore[assignment]  # it is compared, never looked up


def _has_groups(part: Any) -> bool:
    # A wrapper may be an optimizer by name alone.
    return isinstance(part, Optimizer) and hasattr(part, "param_groups")


def _is_scheduler(key: str, part: Any) -> bool:
    return key == "scheduler" or isinstance(part, LRScheduler)


def _optimizers_of(scheduler: Any, optimizers: Mapping[str, Any]) -> list[str]:
    """Return the key of the optimizer that a scheduler changes; none where that is not known."""
    own = getattr(scheduler, "optimizer", None)
    if own is None:  # some do not tell: then it is the only one
        return list(optimizers) if len(optimizers) == 1 else []
    wrapped = {key: (one, getattr(one, "optimizer", None)) for key, one in optimizers.items()}
    return [key for key, both in wrapped.items() if any(own is one for one in both)][:1]


def _marked(value: Any) -> Any:
    """Return something that differs once a value does; nothing is read from a device."""
    if isinstance(value, Mapping):
        return {key: _marked(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(part) for part in value]
    return value if isinstance(value, int | float | str | None) else Same(value)


def _copied(value: Any) -> Any:
    """Copy containers and tensors; what else there is, a lock or a whole model, is only named."""
    if isinstance(value, dict):
        new = copy.copy(value)  # keeps the class: a scheduler may have a Counter
        for key, part in value.items():
            new[key] = _copied(part)
        return new
    if type(value) in (list, tuple):
        return type(value)(_copied(part) for part in value)
    return value.detach().clone() if isinstance(value, Tensor) else value
