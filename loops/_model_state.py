"""The state of a model as the plain model has it, whatever is wrapped around it.

`torch.compile` and data parallelism name each weight after the wrapper (`_orig_mod.`, `module.`): a
checkpoint with such names suits nobody who has another wrapper, or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["PlainModelState", "bare_model"]

_WRAPPERS = ("_orig_mod", "module")


def bare_model(model: Any) -> Any:
    """Return the model inside what `torch.compile` and data parallelism wrap around it."""
    model = getattr(model, "_orig_mod", model)  # torch.compile's
    is_wrapped = isinstance(model, nn.DataParallel | DistributedDataParallel)
    return bare_model(model.module) if is_wrapped else model


class PlainModelState:
    """Gives and takes the state of a model in its place.

    FSDP, whose own `state_dict` has plain names, is left alone.

    Parameters
    ----------
    model
        As it was given, wrapped or not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def state_dict(self) -> Mapping[str, Any]:
        """Return it under the names of the bare model."""
        state: Mapping[str, Any] = bare_model(self._model).state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it, also under the names that a wrapper gave."""
        model = bare_model(self._model)
        model.load_state_dict(_unwrapped(state, model))

    def frozen(self) -> list[str]:
        """Return the names of the parameters that are not trained."""
        named = bare_model(self._model).named_parameters()
        return [name for name, parameter in named if not parameter.requires_grad]


def _unwrapped(state: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    own = dict(model.named_children())
    for name in _WRAPPERS * 2:  # in either order, one around the other
        prefix = f"{name}."
        if name not in own and state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
