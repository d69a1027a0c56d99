"""What rides in a Keras model: its weights for our checkpoints, and our state in Keras's."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy
import torch
from keras.src.saving.keras_saveable import KerasSaveable

from eventbus.loops._keras_names import names_followed

__all__ = ["ModelState", "Stowage", "copied", "stowed_in"]

ATTRIBUTE = "_eventbus"
"""Of the model, for the time of a fit: what Keras finds there, it saves with the weights."""


class ModelState:
    """The weights of a Keras model by their path, in the order in which Keras made them.

    Keras numbers layers through a whole process, so a model that is made a second time has other
    paths; its weights are given back by their order.

    Examples
    --------
    >>> def made():
    ...     return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model, again = made(), made()
    >>> state = ModelState(model).state_dict()
    >>> [value.shape for value in state.values()]
    [torch.Size([2, 1]), torch.Size([1])]
    >>> ModelState(again).load_state_dict(state)
    >>> bool((model.layers[0].kernel == again.layers[0].kernel).all())
    True
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights, as they are on their device."""
        paths = [one.path for one in self._model.variables]
        if len(set(paths)) < len(paths):  # layers of the same name
            paths = [f"{place}/{path}" for place, path in enumerate(paths)]
        values = [one.value.detach() for one in self._model.variables]
        return dict(zip(paths, values, strict=True))

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises
        ------
        ValueError
            It is of another model.
        """
        own = self._model.variables
        if [tuple(one.shape) for one in own] != [tuple(one.shape) for one in state.values()]:
            raise ValueError(f"the weights are of another model than {self._model.name!r}")
        for variable, value in zip(own, state.values(), strict=True):
            variable.assign(value)


class Stowage(KerasSaveable):  # type: ignore[misc]  # Keras ships no types
    """Puts state into whatever file Keras saves the weights of a model to, and takes it out.

    In such a file it is bytes; a program that knows nothing of it passes it over.
    """

    def __init__(
        self,
        give: Callable[[], Mapping[str, Any] | None],
        take: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._give = give
        self._take = take

    def save_own_variables(self, store: Any) -> None:
        """Called by Keras as it saves."""
        state = self._give()
        if state is not None:
            file = io.BytesIO()
            torch.save(dict(state), file)
            store["state"] = numpy.frombuffer(file.getvalue(), dtype=numpy.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Called by Keras as it loads."""
        if "state" in store.keys():  # noqa: SIM118  # Keras's store is no mapping
            self._take(_unpacked(store["state"]))

    def _obj_type(self) -> str:
        return "Loss"  # one of the kinds that Keras knows; it is asked for what it need not visit


def stowed_in(path: str | Path) -> Mapping[str, Any]:
    """Return the state in a file of Keras's, `.keras` or `.weights.h5`.

    Raises
    ------
    ValueError
        There is none: it was saved without an emitter.
    """
    source: Any = path
    if str(path).endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(source, "r") as file:
        place = f"{ATTRIBUTE}/vars/state"
        if place not in file:
            raise ValueError(f"{path} holds no state of handlers: no Emitter was there to save it")
        return _unpacked(file[place])


def _unpacked(data: Any) -> Mapping[str, Any]:
    file = io.BytesIO(numpy.asarray(data).tobytes())
    state: Mapping[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def copied(model: Any, memo: dict[int, Any]) -> Any:
    """Deepcopy a Keras model, but for what it was compiled with.

    Keras copies by saving and loading, which wants custom classes registered, loads an optimizer
    that nobody needs, and changes the paths of some weights, by which torch orders parameters.
    """
    classes = {type(layer).__name__: type(layer) for layer in model._flatten_layers()}
    with _uncompiled(model), keras.saving.custom_object_scope(classes):
        rebuild, arguments = model.__reduce__()
        copy = rebuild(*arguments)
    for variable, new in zip(model.variables, copy.variables, strict=True):
        new._path = variable.path
        new.assign(variable.value)  # the seeds of random layers are not in what Keras saves
    for part in copy.modules():
        if hasattr(part, "_track_variables"):
            part._track_variables()
    names_followed(copy)
    memo[id(model)] = copy
    return copy


@contextmanager
def _uncompiled(model: Any) -> Iterator[None]:
    stowage = vars(model).pop(ATTRIBUTE, None)
    vars(model)["get_compile_config"] = lambda: None
    try:
        yield
    finally:
        del vars(model)["get_compile_config"]
        if stowage is not None:
            vars(model)[ATTRIBUTE] = stowage
