"""What a loader keeps from pass to pass, for a resumed run: its own generators, and its workers.

A new process has made its loaders anew. An uninterrupted run would draw the next order from a
loader's own generators as the last pass has left them; and where its workers live on
(`persistent_workers=True`) it would draw no seed for them again, which shifts all later draws.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import chain, count
from typing import Any
from weakref import ref

import torch

from eventbus.loops._generators import own_generators, put_aside
from eventbus.loops._opening import keeps_its_place

__all__ = ["Loaders"]

log = logging.getLogger("eventbus.loops")


class Loaders:
    """The loaders of one run, each by the place in a body where it is read."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._restored: dict[str, Mapping[str, Any]] = {}  # and not come to yet
        self._met: dict[int, torch.Generator] = {}  # by number: several loaders may draw from one

    def begin(
        self, place: str, loader: Any, *, is_within: bool = False, has_state: bool = False
    ) -> None:
        """A pass over `loader` begins: have it as the same pass found it before the checkpoint.

        Parameters
        ----------
        is_within
            It is to go on in the middle.
        has_state
            There it takes a state, and makes its iterator from that.
        """
        kept, last = self._restored.pop(place, None), self._known.pop(place, None)
        if kept is not None:
            self._give_back(loader, kept, is_within)
            if kept["has_workers"] and not has_state:
                _begin_workers(loader, is_within)
        known = Known(loader)
        if known.keeps_something:
            known.compare(last, kept)
            self._known[place] = known
            self._number(known)

    def pass_over(self, place: str, loader: Any) -> None:
        """The pass was done before the checkpoint; others may draw from its generators, too."""
        if place in self._restored:
            self._give_back(loader, self._restored[place], is_within=False)

    def end(self, place: str) -> None:
        """The pass is over: the next one at that place finds its loader as it is then."""
        if place in self._known:
            self._known[place].end()

    def _give_back(self, loader: Any, kept: Mapping[str, Any], is_within: bool) -> None:
        own = own_generators(loader)
        for generator, state, seed, number in zip(
            own, kept["own"], kept["seeds"], kept["numbers"], strict=False
        ):
            # One that another loader draws from has been given back, and goes on from there.
            is_new = all(generator is not one for one in self._met.values())
            if is_within or (is_new and _goes_on(loader, generator, seed, kept["goes_on"])):
                generator.set_state(state)
            self._met[number] = generator

    def _number(self, known: Known) -> None:
        """Number the generators of a loader, and let go of those that are no loader's any more."""
        free = (number for number in count() if number not in self._numbers())
        for generator in known.generators:
            found = [number for number, one in self._met.items() if one is generator]
            number = found[0] if found else next(free)
            self._met[number] = generator
            known.numbers.append(number)
        self._met = {number: self._met[number] for number in self._numbers() & set(self._met)}

    def _numbers(self) -> set[int]:
        """Return the numbers that generators of loaders have, those not come to yet, too."""
        restored = [kept["numbers"] for kept in self._restored.values()]
        return set(chain(*restored, *(one.numbers for one in self._known.values())))

    def state(self, ended: str | None = None) -> dict[str, Any]:
        """Return how a resumed run is to find them, with a pass that is as good as over."""
        known = {place: one.state(place == ended) for place, one in self._known.items()}
        return {place: self._as_met(kept) for place, kept in self._restored.items()} | known

    def _as_met(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was restored with those generators that other loaders have drawn from."""
        own = [
            self._met[number].get_state() if number in self._met else state
            for number, state in zip(kept["numbers"], kept["own"], strict=True)
        ]
        return {**kept, "own": own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Have each as `state` tells once the run comes to it."""
        self._known, self._restored = {}, dict(state)


class Known:
    """A loader as its last pass has found it.

    Attributes
    ----------
    goes_on : bool or None
        Its generators are the same from pass to pass, and nobody seeds them in between; None while
        there was one pass.
    is_remade : bool
        It is another object in each pass, with workers of its own.
    numbers : list of int
        By which its generators are known.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = _weak(loader)
        self.generators = own_generators(loader)
        self.numbers: list[int] = []
        self._seeds = [one.initial_seed() for one in self.generators]
        self._found = self._now()
        self._left: dict[str, Any] | None = None
        self.keeps_something = bool(self.generators) or _keeps_workers(loader)
        self.goes_on: bool | None = None
        self.is_remade = False

    def compare(self, last: Known | None, kept: Mapping[str, Any] | None) -> None:
        """Learn from the pass before, in this life or in an earlier one, what goes on."""
        if kept is not None:
            self.goes_on, self.is_remade = kept["goes_on"], kept["is_remade"]
        elif last is not None:
            self.is_remade = last._loader() is not self._loader()
            self.goes_on = not self._is_seeded_since(last)

    def _is_seeded_since(self, last: Known) -> bool:
        pairs = zip(self.generators, last.generators, strict=False)
        if self._seeds != last._seeds or any(one is not other for one, other in pairs):
            return True
        left = last._now() if last._left is None else last._left
        own, found = self._found["own"], last._found["own"]
        return _are_equal(own, found) and not _are_equal(own, left["own"])

    def end(self) -> None:
        """The pass is over."""
        self._left = self._now()

    def state(self, is_over: bool) -> dict[str, Any]:
        """Return how the pass has found it; once that is over, how the next one is to."""
        known: dict[str, Any] = {"goes_on": self.goes_on, "is_remade": self.is_remade}
        known |= {"seeds": self._seeds, "numbers": list(self.numbers)}
        if not is_over and self._left is None:
            return {**self._found, **known}
        now = self._now()
        return {**now, **known, "has_workers": now["has_workers"] and not self.is_remade}

    def _now(self) -> dict[str, Any]:
        loader = self._loader()
        has_workers = _keeps_workers(loader) and _inner(loader)._iterator is not None
        own = [one.get_state() for one in self.generators]
        return {"own": own, "has_workers": has_workers}


def _goes_on(loader: Any, generator: torch.Generator, seed: int, goes_on: bool | None) -> bool:
    """Tell whether a generator is the one of an earlier life, to be set to what that has left."""
    if goes_on is not None:
        return goes_on
    now = generator.initial_seed()
    is_torchdatas = keeps_its_place(loader) and getattr(loader, "generator", None) is None
    if now != seed and not is_torchdatas:  # that comes back with the loader's state
        log.warning(
            "the loader's own generator began with seed %d before the checkpoint and has seed %d "
            "here: it goes on as it is, which is exact only where each epoch seeds it anew",
            seed,
            now,
        )
    return now == seed


def _begin_workers(loader: Any, is_within: bool) -> None:
    """Start the workers that live on, as was done before; the next iteration resets them."""
    inner = _inner(loader)
    if not _keeps_workers(loader):
        if is_within:
            log.warning(
                "the workers of the loader lived on when the checkpoint was saved, and do not now: "
                "what it draws is another order, so samples of this epoch may be passed over or "
                "come twice (give it persistent_workers=True again)"
            )
    elif inner._iterator is None:
        with put_aside(own_generators(loader)):
            iter(inner)


def _keeps_workers(loader: Any) -> bool:
    """Tell whether a loader is torch's and has workers that live on from pass to pass."""
    has_iterator = hasattr(_inner(loader), "_iterator")
    has_workers = getattr(loader, "num_workers", 0) and getattr(loader, "persistent_workers", False)
    return bool(has_iterator and has_workers)


def _inner(loader: Any) -> Any:
    """Return the loader that makes the iterator: Accelerate's wraps one."""
    return getattr(loader, "base_dataloader", loader)


def _are_equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def _weak(loader: Any) -> Callable[[], Any]:
    try:
        return ref(loader)
    except TypeError:  # a list, say, which keeps nothing
        return lambda: None
