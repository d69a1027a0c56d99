"""What a loader keeps from pass to pass, for a resumed run: its own generators, and its workers.

A new process has made its loaders anew. An uninterrupted run would draw the next order from a
loader's own generators as the last pass has left them; and where its workers live on
(`persistent_workers=True`) it would draw no seed for them again, which shifts all later draws.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import chain, count
from typing import Any

import torch

from eventbus.loops._generators import put_aside
from eventbus.loops._known_loader import (
    KnownLoader,
    has_samples,
    inner,
    is_kept_of,
    keeps_workers,
    may_be_kept_of,
    samples_of,
)
from eventbus.loops._own_generators import OwnGenerator, own_generators, samplers_of

__all__ = ["Loaders"]

log = logging.getLogger("eventbus.loops")

_MOST = 32
"""So many are kept of those that are read at one place: each costs a checkpoint 5 KiB."""


class Loaders:
    """The loaders of one run, each by the place in a body where it is read.

    Several may be read in turns at one place: those are told apart as the objects that they are,
    and after a resume by the seeds of their generators and the number of their samples. Of very
    many those that were read last are kept.
    """

    def __init__(self) -> None:
        self._known: dict[str, list[KnownLoader]] = {}  # the one read last at the end
        self._restored: dict[str, list[Mapping[str, Any]]] = {}  # and not come to yet
        self._met: dict[int, OwnGenerator] = {}  # by number: several loaders may draw from one
        self._left: dict[int, torch.Tensor] = {}  # by number, those that are not torch's
        self._has_warned = False

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
        kept = self._kept_of(place, loader, is_within)
        if kept is not None:
            self._restored[place] = [one for one in self._restored[place] if one is not kept]
            self._give_back(loader, kept, is_within)
            if kept["has_workers"] and not has_state:
                _begin_workers(loader, is_within)
        known = KnownLoader(loader)
        for one in chain(*self._known.values()):
            self._left |= one.others_now() if one.is_open else {}
        last = self._take_last(place, known, loader)
        known.compare(last, kept, self._left)
        self._known[place] = [*self._known[place], known][-_MOST:]
        self._number(known)

    def _kept_of(self, place: str, loader: Any, is_within: bool) -> Mapping[str, Any] | None:
        """Return what was kept of a loader; of several that may be it that of the one read last."""
        all_kept = self._restored.get(place, [])
        if is_within:
            return all_kept[-1] if all_kept else None
        found = [one for one in all_kept if is_kept_of(one, loader, self._met)]
        is_made_anew = any(one.is_gone for one in self._known.get(place, [])[-1:])
        if is_made_anew:
            found = [one for one in found if one["goes_on"] is not None]
        if not found and not is_made_anew and len(all_kept) == 1:
            found = self._may_be(all_kept[0], loader)
        if len(found) > 1:
            self._warn_of_alike(loader, found)
        return found[-1] if found else None

    def _take_last(self, place: str, known: KnownLoader, loader: Any) -> KnownLoader | None:
        """Return the pass before over that loader, or over one whose place it takes.

        Let go of those that nobody holds any more.
        """
        before = self._known.get(place, [])
        latest = before[-1:]
        found = [one for one in before if one.is_of(loader, known.generators)]
        self._known[place] = [one for one in before if one not in found and not one.is_gone]
        if not found:
            found = [one for one in latest if one.is_gone or one.looks_like(known)]
            for one in found:
                one.goes_on = one.goes_on or False  # of a loader made anew none goes on
        return found[0] if found else None

    def pass_over(self, place: str, loader: Any) -> None:
        """The pass was done before the checkpoint; others may draw from its generators, too."""
        kept = self._kept_of(place, loader, is_within=False)
        if kept is not None:
            self._give_back(loader, kept, is_within=False)

    def end(self, place: str) -> None:
        """The pass is over: the next one at that place finds its loader as it is then."""
        for known in self._known.get(place, [])[-1:]:
            known.end()
            self._left |= known.others_now()

    def _give_back(self, loader: Any, kept: Mapping[str, Any], is_within: bool) -> None:
        own = own_generators(loader)
        for generator, state, number in zip(own, kept["own"], kept["numbers"], strict=False):
            # One that another loader draws from has been given back, and goes on from there.
            is_new = generator not in self._met.values()
            if is_within or (is_new and kept["goes_on"] is not False):
                generator.set_state(state)
            self._met[number] = generator

    def _may_be(self, kept: Mapping[str, Any], loader: Any) -> list[Mapping[str, Any]]:
        """Return what was kept of the one loader that was read there, where this may be it."""
        may_be = may_be_kept_of(kept, loader, self._met)
        if has_samples(kept, loader):
            self._warn_of_another(loader, kept, _AS_IT_WAS_LEFT if may_be else _AS_IT_IS)
        elif may_be:
            self._warn(
                "the loader had %d samples before the checkpoint and has %d here: %s; give it a "
                "seed of its own then",
                kept["samples"],
                samples_of(loader),
                _AS_IT_WAS_LEFT,
            )
        return [kept] if may_be else []

    def _warn_of_another(self, loader: Any, kept: Mapping[str, Any], how: str) -> None:
        """Say that a generator has another seed, unless its sampler seeds it by the epoch."""
        if any(hasattr(sampler, "set_epoch") for sampler in samplers_of(loader)):
            return
        for generator, seed in zip(own_generators(loader), kept["seeds"], strict=False):
            if generator.seed != seed:
                self._warn("%s: %s", _is_another(generator, seed), how)

    def _warn_of_alike(self, loader: Any, found: list[Mapping[str, Any]]) -> None:
        if own_generators(loader):
            self._warn(
                "%d loaders that are read in turns have generators of one seed, and as many "
                "samples: which of them was left how cannot be told, and their orders may be "
                "exchanged (give each a seed of its own)",
                len(found),
            )

    def _warn(self, message: str, *of: object) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(message, *of)

    def _number(self, known: KnownLoader) -> None:
        """Number the generators of a loader, and let go of those that are no loader's any more."""
        used = self._numbers()
        free = (number for number in count() if number not in used)
        for generator in known.generators:
            found = [number for number, one in self._met.items() if one == generator]
            number = found[0] if found else next(free)
            self._met[number] = generator
            known.numbers.append(number)
        used.update(known.numbers)
        self._met = {number: one for number, one in self._met.items() if number in used}
        self._left = {number: one for number, one in self._left.items() if number in used}

    def _numbers(self) -> set[int]:
        """Return the numbers that generators of loaders have, those not come to yet, too."""
        restored = [kept["numbers"] for kept in chain(*self._restored.values())]
        known = [one.numbers for one in chain(*self._known.values())]
        return set(chain(*restored, *known))

    def state(self, ended: str | None = None) -> dict[str, Any]:
        """Return how a resumed run is to find them, with a pass that is as good as over."""
        state = {}
        for place in {**self._restored, **self._known}:
            known = self._known.get(place, [])
            kept = [self._as_met(one) for one in self._restored.get(place, [])]
            kept += [one.state(place == ended and one is known[-1]) for one in known]
            if any(one["own"] or one["has_workers"] for one in kept):
                *others, last = kept[-_MOST:]
                state[place] = {**last, "others": others}
        return state

    def _as_met(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was restored with those generators that other loaders have drawn from."""
        own = [
            self._met[number].get_state() if number in self._met else state
            for number, state in zip(kept["numbers"], kept["own"], strict=True)
        ]
        return {**kept, "own": own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Have each as `state` tells once the run comes to it."""
        self._known, self._left, self._has_warned = {}, {}, False
        self._restored = {place: [*one.get("others", ()), one] for place, one in state.items()}


_AS_IT_WAS_LEFT = (
    "it goes on as it was left, which is exact unless this loader is read for the first time"
)
_AS_IT_IS = (
    "it goes on as it is, which is exact only where each epoch seeds it anew, or this loader is "
    "read for the first time"
)


def _is_another(generator: OwnGenerator, seed: int) -> str:
    began = (
        f"began with seed {seed} before the checkpoint and has seed {generator.seed} here"
        if generator.is_torchs
        else "is not made here as it was before the checkpoint"
    )
    return f"the loader's own generator {began}"


def _begin_workers(loader: Any, is_within: bool) -> None:
    """Start the workers that live on, as was done before; the next iteration resets them."""
    torchs = inner(loader)
    if not keeps_workers(loader):
        if is_within:
            log.warning(
                "the workers of the loader lived on when the checkpoint was saved, and do not now: "
                "what it draws is another order, so samples of this epoch may be passed over or "
                "come twice (give it persistent_workers=True again)"
            )
    elif torchs._iterator is None:
        with put_aside(own_generators(loader)):
            iter(torchs)
