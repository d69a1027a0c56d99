"""Loops that emit: `Run` for those that people write themselves, `fit` ready to use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eventbus.loops import accelerate as accelerate
    from eventbus.loops import huggingface as huggingface
    from eventbus.loops import ignite as ignite
    from eventbus.loops import keras as keras
    from eventbus.loops import lightning as lightning
    from eventbus.loops._exchange import RanksError
    from eventbus.loops._metrics import Metrics
    from eventbus.loops.fit import fit
    from eventbus.loops.resumable_sampler import ResumableSampler
    from eventbus.loops.run import Run

__all__ = ["Metrics", "RanksError", "ResumableSampler", "Run", "fit"]

_HOMES = {
    "Metrics": "_metrics",
    "RanksError": "_exchange",
    "ResumableSampler": "resumable_sampler",
    "Run": "run",
    "fit": "fit",
}


ADAPTERS = ("accelerate", "huggingface", "ignite", "keras", "lightning")
"""One module each: `eventbus.loops.lightning.Emitter(bus)`. Needs the extra of that name."""

if not TYPE_CHECKING:  # a type checker would take any name for one that is here

    def __getattr__(name: str) -> Any:
        # Lazy: importing one loop imports neither torch nor its neighbours.
        if name in ADAPTERS:
            return import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value  # else the submodule `fit` would hide the function `fit`
        return value


def __dir__() -> list[str]:
    return sorted((*__all__, *ADAPTERS))
