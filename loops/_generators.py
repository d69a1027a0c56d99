"""The global random generators, as a thing with state."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol

import torch

__all__ = ["RandomGenerators", "put_aside"]


class RandomGenerators:
    """The global random generators, as a thing with state: Python, numpy, torch on CPU and CUDA.

    numpy's only where somebody has imported it; CUDA's only where it has been used.

    Parameters
    ----------
    devices
        Whether those of CUDA are meant, too; to read them waits for the device.
    """

    def __init__(self, devices: bool = True) -> None:
        self._devices = devices

    def state_dict(self) -> dict[str, Any]:
        """Return their states in plain Python and tensors."""
        version, words, gauss = random.getstate()
        python = [version, _packed(words), gauss]
        state: dict[str, Any] = {"python": python, "torch": torch.get_rng_state()}
        if self._devices and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
            state["cuda"] = torch.cuda.get_rng_state_all()
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            kind, keys, *rest = numpy.random.get_state()
            # A tensor, for arrays are not loaded safely.
            state["numpy"] = [kind, _packed(keys.astype("int64").tobytes()), *rest]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set each generator that the checkpoint knows and this process has."""
        version, words, gauss = state["python"]
        random.setstate((version, tuple(_listed(words)), gauss))
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            for index, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(generator, index)
        if "numpy" in state:
            kind, keys, *rest = state["numpy"]
            import_module("numpy").random.set_state((kind, _listed(keys), *rest))


class HasState(Protocol):
    """A generator whose state is one tensor."""

    def get_state(self) -> torch.Tensor:
        """Return it."""
        ...

    def set_state(self, state: torch.Tensor, /) -> object:
        """Go on from it."""
        ...


@contextmanager
def put_aside(own: Iterable[HasState] = ()) -> Iterator[None]:
    """Have the global generators, and those of a loader's `own`, as if nothing inside had drawn."""
    everywhere = RandomGenerators(devices=False)
    now, states = everywhere.state_dict(), [(one, one.get_state()) for one in own]
    try:
        yield
    finally:
        everywhere.load_state_dict(now)
        for generator, state in states:
            generator.set_state(state)


def _packed(words: Iterable[int] | bytes) -> torch.Tensor:
    """Keep hundreds of words as one tensor: as numbers each costs the checkpoint a microsecond."""
    return torch.frombuffer(array("q", words), dtype=torch.int64)  # `tensor` is ten times as slow


def _listed(words: torch.Tensor | list[int]) -> list[int]:
    return words.tolist() if isinstance(words, torch.Tensor) else words  # as they once were kept
