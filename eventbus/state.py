"""State goes over the bus: who has some gives it when asked, and takes its part when it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeGuard

from eventbus.answers import State

__all__ = ["HasState", "RestoredState", "StatePart", "as_restored", "has_state"]


class HasState(Protocol):
    """What takes part by itself when attached."""

    def state_dict(self) -> Any:
        """Return what `load_state_dict` takes."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Go on from there."""


class RestoredState(Mapping[str, Any]):
    """The parts of a checkpoint, by key; each is taken by whoever it belongs to.

    What nobody took is kept for handlers attached later, and reported once at `run_closed`.

    Parameters
    ----------
    parts
        As a checkpoint holds them.

    Attributes
    ----------
    lacking : list of str
        The keys of attached things that looked for their part, and there is none.

    Examples
    --------
    >>> from eventbus import RestoredState
    >>> state = RestoredState({"seen": 12, "other": 3})
    >>> state.take("seen")
    12
    >>> state.untaken
    ('other',)
    """

    def __init__(self, parts: Mapping[str, Any] | None = None) -> None:
        self._parts = dict(parts or {})
        self._untaken = set(self._parts)
        self.lacking: list[str] = []

    def take(self, key: str, default: Any = None) -> Any:
        """Return a part and mark it taken; `default` where there is none."""
        self._untaken.discard(key)
        return self._parts.get(key, default)

    @property
    def untaken(self) -> tuple[str, ...]:
        """The keys that nobody took, in order."""
        return tuple(key for key in self._parts if key in self._untaken)

    def __getitem__(self, key: str) -> Any:
        return self._parts[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class StatePart:
    """Speaks for one attached thing when state is asked for and given back.

    `settle` waits until no other thread works on the thing, where one does.
    """

    def __init__(self, key: str, thing: HasState, settle: Callable[[], None] | None = None) -> None:
        self.key = key
        self.thing = thing
        self._settle = settle

    def give(self) -> State:
        """Answer `state_requested`."""
        if self._settle is not None:
            self._settle()
        return State(self.key, self.thing.state_dict())

    def take(self, state: RestoredState) -> None:
        """Take this thing's part on `state_restored`, where there is one."""
        if self.key not in as_restored(state):
            state.lacking.append(self.key)
            return
        if self._settle is not None:
            self._settle()
        self.thing.load_state_dict(state.take(self.key))

    def take_late(self, state: RestoredState) -> None:
        """Take it when attached after the state was restored, unless another has taken it."""
        if self.key in state.untaken:
            self.take(state)


def as_restored(state: object) -> RestoredState:
    """Return what `state_restored` was emitted with, where it is what that signal carries."""
    if not isinstance(state, RestoredState):
        raise TypeError(
            f"state_restored carries a RestoredState: RestoredState(parts); got {type(state)}"
        )
    return state


def has_state(thing: Any) -> TypeGuard[HasState]:
    """Tell whether a thing can give and take its state."""
    return callable(getattr(thing, "state_dict", None)) and callable(
        getattr(thing, "load_state_dict", None)
    )
