"""A loader as its last pass has found it, and whether what was kept of one is of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import ref

import torch

from eventbus.loops._loader import length_of
from eventbus.loops._opening import keeps_its_place
from eventbus.loops._own_generators import OwnGenerator, own_generators

__all__ = [
    "KnownLoader",
    "has_samples",
    "inner",
    "is_kept_of",
    "keeps_workers",
    "may_be_kept_of",
    "samples_of",
]


class KnownLoader:
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
    varies : bool
        Its passes have not all as many samples.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = _weak(loader)
        self._samples = samples_of(loader)
        self.generators = own_generators(loader)
        self.numbers: list[int] = []
        self._seeds = [one.seed for one in self.generators]
        self._found = self._now()
        self._left: dict[str, Any] | None = None
        self.goes_on: bool | None = None
        self.is_remade = False
        self.varies = False

    @property
    def is_gone(self) -> bool:
        """True once nobody holds the loader any more."""
        return self._loader() is None

    def is_of(self, loader: Any, own: list[OwnGenerator]) -> bool:
        """Tell whether it is that loader, or one that draws from its `own` generators."""
        return self._loader() is loader or (bool(own) and own == self.generators)

    def looks_like(self, other: KnownLoader) -> bool:
        """Tell whether two that are not the same began alike, as one does that is made anew."""
        return self._seeds == other._seeds and self._samples == other._samples

    def compare(
        self,
        last: KnownLoader | None,
        kept: Mapping[str, Any] | None,
        left: Mapping[int, torch.Tensor],
    ) -> None:
        """Learn from the pass before, in this life or in an earlier one, what goes on.

        Parameters
        ----------
        left
            By number, as whatever loader has left them last, the generators that are not torch's.
        """
        if kept is not None:
            self.goes_on, self.is_remade = kept["goes_on"], kept["is_remade"]
            self.varies = kept.get("samples") != self._samples
            self._begin_as(kept["seeds"])
        elif last is not None:
            self.is_remade = last._loader() is not self._loader()
            self.varies = last.varies or last._samples != self._samples
            self.goes_on = not self._is_seeded_since(last, left)
            self._begin_as(last._seeds)

    def _begin_as(self, seeds: list[int]) -> None:
        """Keep how those began that do not know it themselves, unless they are seeded anew."""
        if self.goes_on is not False:
            pairs = list(zip(self.generators, self._seeds, seeds, strict=False))
            self._seeds[: len(pairs)] = [now if one.is_torchs else was for one, now, was in pairs]

    def _is_seeded_since(self, last: KnownLoader, as_left: Mapping[int, torch.Tensor]) -> bool:
        if self.generators != last.generators:
            return True
        others = zip(self.generators, last.numbers, self._found["own"], strict=True)
        if any(not (o.is_torchs or torch.equal(now, as_left[number])) for o, number, now in others):
            return True  # or a body has drawn from it, which looks the same
        if self._seeds_of_torchs() != last._seeds_of_torchs():
            return True
        left = last._now() if last._left is None else last._left
        found = zip(
            self.generators, self._found["own"], last._found["own"], left["own"], strict=True
        )
        torchs = [states for own, *states in found if own.is_torchs]
        is_as_before = all(torch.equal(now, before) for now, before, _ in torchs)
        return is_as_before and not all(torch.equal(now, left) for now, _, left in torchs)

    def _seeds_of_torchs(self) -> list[int]:
        pairs = zip(self.generators, self._seeds, strict=True)
        return [seed for one, seed in pairs if one.is_torchs]

    @property
    def is_open(self) -> bool:
        """True until the pass is over."""
        return self._left is None

    def others_now(self) -> dict[int, torch.Tensor]:
        """Return by number the states of the generators that are not torch's."""
        pairs = zip(self.numbers, self.generators, strict=True)
        return {number: one.get_state() for number, one in pairs if not one.is_torchs}

    def end(self) -> None:
        """The pass is over."""
        self._left = self._now()

    def state(self, is_over: bool) -> dict[str, Any]:
        """Return how the pass has found it; once that is over, how the next one is to."""
        known: dict[str, Any] = {"goes_on": self.goes_on, "is_remade": self.is_remade}
        known |= {"seeds": list(self._seeds), "numbers": list(self.numbers)}
        known |= {} if self.varies or self._samples is None else {"samples": self._samples}
        if not is_over and self._left is None:
            return {**self._found, **known}
        now = self._now()
        return {**now, **known, "has_workers": now["has_workers"] and not self.is_remade}

    def _now(self) -> dict[str, Any]:
        loader = self._loader()
        has_workers = keeps_workers(loader) and inner(loader)._iterator is not None
        own = [one.get_state() for one in self.generators]
        return {"own": own, "has_workers": has_workers}


def is_kept_of(kept: Mapping[str, Any], loader: Any, met: Mapping[int, OwnGenerator]) -> bool:
    """Tell whether what was kept of a loader is of this one, as far as can be told.

    Parameters
    ----------
    met
        By number, the generators that are known to be those of the earlier life.
    """
    own = own_generators(loader)
    if not has_samples(kept, loader) or bool(own) != bool(kept["own"]):
        return False
    return kept["goes_on"] is False or _began_alike(kept, loader, met)


def may_be_kept_of(kept: Mapping[str, Any], loader: Any, met: Mapping[int, OwnGenerator]) -> bool:
    """Tell whether it may be of this loader, where no other was read at its place.

    Its data may have grown. Or its seed is another one in each process, and its passes went on from
    each other.
    """
    if not (own_generators(loader) and kept["own"]) or _is_seeded_by_torchdata(loader):
        return False
    if has_samples(kept, loader):
        return kept["goes_on"] is True
    return kept["goes_on"] is not False and _began_alike(kept, loader, met)


def has_samples(kept: Mapping[str, Any], loader: Any) -> bool:
    """Tell whether a loader has as many samples as was kept, where each pass had as many."""
    now = samples_of(loader)
    return bool(kept.get("samples", now) == now)


def _began_alike(kept: Mapping[str, Any], loader: Any, met: Mapping[int, OwnGenerator]) -> bool:
    if _is_seeded_by_torchdata(loader):
        return True
    own = own_generators(loader)
    pairs = zip(own, kept["seeds"], kept["own"], kept["numbers"], strict=False)
    return all(
        one.seed == seed or met.get(number) == one or _has_state(one, state)
        for one, seed, state, number in pairs
    )


def _has_state(generator: OwnGenerator, state: torch.Tensor) -> bool:
    """Tell whether it is as it was left: a sampler in `state=` has given it back by itself."""
    return not generator.is_torchs and torch.equal(generator.get_state(), state)


def _is_seeded_by_torchdata(loader: Any) -> bool:
    """Tell whether its seed is drawn for each process; that comes back with the loader's state."""
    return keeps_its_place(loader) and getattr(loader, "generator", None) is None


def samples_of(loader: Any) -> int | None:
    """Return how many samples a pass has, where the sampler knows it."""
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    return length_of(getattr(loader, "sampler", None) if sampler is None else sampler)


def keeps_workers(loader: Any) -> bool:
    """Tell whether a loader is torch's and has workers that live on from pass to pass."""
    has_iterator = hasattr(inner(loader), "_iterator")
    has_workers = getattr(loader, "num_workers", 0) and getattr(loader, "persistent_workers", False)
    return bool(has_iterator and has_workers)


def inner(loader: Any) -> Any:
    """Return the loader that makes the iterator: Accelerate's wraps one."""
    return getattr(loader, "base_dataloader", loader)


def _weak(loader: Any) -> Callable[[], Any]:
    try:
        return ref(loader)
    except TypeError:  # a list, say, which keeps nothing
        return lambda: None
