"""The random generators that a loader has of its own: torch's, numpy's or Python's."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch

__all__ = ["OwnGenerator", "held_generators", "own_generators", "samplers_of"]


@dataclass(frozen=True)
class OwnGenerator:
    """A generator, whose state is one tensor whatever its kind; equal where it is the same one.

    Attributes
    ----------
    source : torch.Generator, numpy.random.Generator, numpy.random.RandomState or random.Random
    """

    source: Any

    @property
    def is_torchs(self) -> bool:
        """True for torch's, which alone knows the seed that it began with."""
        return isinstance(self.source, torch.Generator)

    @property
    def seed(self) -> int:
        """The seed that it began with; of another kind than torch's a sum of its state."""
        if self.is_torchs:
            return int(self.source.initial_seed())
        return int.from_bytes(blake2b(self._packed(), digest_size=7).digest(), "big")

    def get_state(self) -> torch.Tensor:
        """Return its state, which is loaded safely."""
        if self.is_torchs:
            state: torch.Tensor = self.source.get_state()
            return state
        return torch.frombuffer(bytearray(self._packed()), dtype=torch.uint8)

    def set_state(self, state: torch.Tensor) -> None:
        """Go on from `state`."""
        if self.is_torchs:
            self.source.set_state(state)
            return
        kept = json.loads(bytes(state.tolist()))
        if isinstance(self.source, random.Random):
            version, words, gauss = kept
            self.source.setstate((version, tuple(words), gauss))
        elif hasattr(self.source, "bit_generator"):
            self.source.bit_generator.state = kept
        else:
            self.source.set_state(kept)

    def _packed(self) -> bytes:
        if isinstance(self.source, random.Random):
            state: Any = self.source.getstate()
        elif hasattr(self.source, "bit_generator"):
            state = self.source.bit_generator.state
        else:
            state = self.source.get_state(legacy=False)
        return json.dumps(state, default=lambda array: array.tolist()).encode()


def own_generators(loader: Any) -> list[OwnGenerator]:
    """Return the generators of the loader's own, each once, in an order that is always the same.

    Those of the loader's and its samplers' `generator=`, then what else its samplers hold.
    """
    samplers = list(samplers_of(loader))
    found = [getattr(one, "generator", None) for one in (loader, *samplers)]
    own = [one for one in found if isinstance(one, torch.Generator)]
    own += [one for sampler in samplers for one in held_generators(sampler)]
    return [OwnGenerator(one) for one in {id(one): one for one in own}.values()]


def samplers_of(loader: Any) -> Iterator[Any]:
    """Return its samplers, None where there is none."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    yield getattr(loader, "sampler", None)
    yield batch_sampler
    yield getattr(batch_sampler, "sampler", None)


def held_generators(sampler: Any) -> list[Any]:
    """Return the generators with a state among the attributes of a sampler, but no global ones."""
    kinds: tuple[type, ...] = (torch.Generator, random.Random)
    shared: list[Any] = [torch.default_generator, random._inst]
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        kinds += (numpy.random.Generator, numpy.random.RandomState)
        shared.append(numpy.random.mtrand._rand)
    held = [one for one in getattr(sampler, "__dict__", {}).values() if isinstance(one, kinds)]
    own = [one for one in held if all(one is not each for each in shared)]
    return [one for one in own if _has_state(one)]


def _has_state(generator: Any) -> bool:
    """Tell whether its state can be kept: `random.SystemRandom` has none."""
    if type(generator) in (torch.Generator, random.Random):
        return True
    try:
        OwnGenerator(generator).get_state()
    except Exception:  # noqa: BLE001 - whatever a class of a user's raises
        return False
    return True
