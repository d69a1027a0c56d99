"""Learning rates as a resumed run is to find them: it goes through the body of the epoch again.

What a body does outside of its loops it does once more in a run that resumes within that epoch:
`scheduler.step()` at its end, as a rule. So a checkpoint of an epoch that is not finished holds
schedulers and rates as they were before that. What changes them within a loop over batches, or as a
handler of a validation, is not done again, and stays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["Schedules"]

Kept = dict[str, Any]
"""By key: the state of a scheduler, or the groups of an optimizer without their parameters."""


class Schedules:
    """Follows the schedulers and the rates of one run through the bodies of its epochs.

    Nothing is read from a device.

    Parameters
    ----------
    parts
        What has a `state_dict`, by key; schedulers and optimizers among them are followed.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._followed = {key: part for key, part in parts.items() if _is_followed(key, part)}
        self._kept: Kept | None = None  # as the body is to find them again; None between epochs
        self._seen: Any = None  # as they were when the body was last left or gone back to
        self._has_changed = False  # the body has changed them since they were kept

    def begin_epoch(self) -> None:
        """The body is at its top."""
        self._keep(self._now())

    def leave_body(self) -> None:
        """A loop in the body begins, or the body has come to its end."""
        if self._kept is None:
            return
        now = self._now()
        self._has_changed = self._has_changed or now != self._seen
        self._seen = now

    def go_back(self) -> None:
        """A loop in the body is over, and the body goes on."""
        if self._kept is None:
            return
        now = self._now()
        # Where both have changed them, what the loop did counts: it is not done again.
        if now != self._seen or not self._has_changed:
            self._keep(now)

    def end_epoch(self) -> None:
        """The epoch is finished: its body is not gone through again."""
        self._kept, self._has_changed = None, False

    def as_kept(self, states: dict[str, Any]) -> dict[str, Any]:
        """Return the states of all parts, with those of schedulers and rates as a checkpoint."""
        if self._kept is None or not self._has_changed or self._now() != self._seen:
            return states
        return states | {key: _with(states[key], kept) for key, kept in self._kept.items()}

    def _keep(self, now: Any) -> None:
        self._seen, self._has_changed = now, False
        self._kept = copy.deepcopy(self._states())

    def _states(self) -> Kept:
        return {key: _state_of(part) for key, part in self._followed.items()}

    def _now(self) -> Any:
        return _marked(self._states())


def _is_followed(key: str, part: Any) -> bool:
    if isinstance(part, Optimizer):
        return hasattr(part, "param_groups")  # a wrapper may be an optimizer by name alone
    return key == "scheduler" or isinstance(part, LRScheduler)


def _state_of(part: Any) -> Any:
    if not isinstance(part, Optimizer):
        return part.state_dict()
    return [{k: v for k, v in group.items() if k != "params"} for group in part.param_groups]


def _marked(value: Any) -> Any:
    """Return something that differs once a value does; of a tensor, without reading it."""
    if isinstance(value, Mapping):
        return {key: _marked(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(part) for part in value]
    return (id(value), value._version) if isinstance(value, Tensor) else value


def _with(state: Any, kept: Any) -> Any:
    if not isinstance(kept, list):
        return kept
    groups = state.get("param_groups", ())
    if len(groups) != len(kept):  # the body has added one, and will again
        return state
    return {
        **state,
        "param_groups": [{**one, **was} for one, was in zip(groups, kept, strict=True)],
    }
