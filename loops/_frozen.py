"""Which parameters are not trained: no state holds it, and what frees some may not come again.

A body that frees some of them `if epoch == 3:` does not do it in a run that is resumed after that.
Where steps of one epoch differ in it, as in a GAN that trains its two models in turns, it cannot be
told whether a resumed run is to be as the step that was saved: then nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eventbus.loops._model_state import PlainModelState

__all__ = ["Frozen"]


class Frozen:
    """The parameters of a run's models that are not trained.

    Parameters
    ----------
    parts
        What has a state, by key; the models among it are meant.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._models = {
            key: part for key, part in parts.items() if isinstance(part, PlainModelState)
        }
        self._before: Mapping[str, Sequence[str]] = {}
        self._opened: Mapping[str, Sequence[str]] = {}
        self._seen: dict[str, Sequence[str]] = {}  # in the steps of this epoch
        self._varying: set[str] = set()

    def state(self) -> dict[str, list[str]]:
        """Return their names, by the key of the model; without those of models that vary."""
        fixed = self._models.keys() - self._varying
        return {key: model.frozen() for key, model in self._models.items() if key in fixed}

    def restore(self, state: Mapping[str, Sequence[str]]) -> None:
        """Remember which they were, and which they are before a body is entered."""
        self._varying = self._models.keys() - state.keys()
        self._before, self._opened = state, self.state()

    def begin_epoch(self) -> None:
        """The code before its loops may free some: what is seen from here on is to stay so."""
        self._seen = {}

    def look(self) -> None:
        """A step is over; notice the models of which it has trained others than one before it."""
        for key, now in self.state().items():
            if self._seen.setdefault(key, now) != now:
                self._varying.add(key)

    def take_differences(self) -> Iterator[str]:
        """Say, once, where they are not those of the checkpoint and nothing has changed them."""
        saved, self._before = self._before, {}
        for key, now in self.state().items() if saved else ():
            before = saved.get(key, now)
            if now == self._opened.get(key):
                yield from _difference(key, before, now, "trained", "frozen")
                yield from _difference(key, now, before, "frozen", "trained")


def _difference(
    key: str, one: Sequence[str], other: Sequence[str], was: str, is_now: str
) -> Iterator[str]:
    names = [name for name in other if name not in set(one)]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{names[0]!r}{more} of {key!r} {was} when it was saved, {is_now} here"
