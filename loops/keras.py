"""Keras 3 on torch: what a fit tells its callbacks becomes the signals of a run.

model.fit(..., callbacks=[eventbus.loops.keras.Emitter(bus)])
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from eventbus.loops._closing import told_to
from eventbus.loops._relay import Relay

try:
    import keras
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "eventbus.loops.keras needs Keras: pip install 'training-eventbus[keras]'"
        if error.name == "keras"
        else f"eventbus.loops.keras needs Keras on torch, and Keras asked for {error.name}: "
        "set KERAS_BACKEND=torch before keras is imported",
        name=error.name,
    ) from error

if keras.backend.backend() != "torch":
    raise ImportError(
        f"eventbus.loops.keras needs Keras on torch, and it runs on {keras.backend.backend()}: "
        "set KERAS_BACKEND=torch before keras is imported"
    )

from eventbus.loops._keras_fit import Fit
from eventbus.loops._keras_model import ATTRIBUTE, ModelState, Stowage, stowed_in
from eventbus.loops._keras_names import names_followed

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from eventbus import EventBus

__all__ = ["Emitter"]

CANNOT = {"loader_opened": "fit() makes its iterator before any callback is called"}
OWN = "a checkpoint of Keras's"
"""What `resumed_from` says: Keras does not tell the path that it restores from."""

P = ParamSpec("P")

_open: set[Emitter] = set()
"""Those whose run is open: Keras tells no callback of a failure, so it may be left so."""


def _told(
    hook: Callable[Concatenate[Emitter, Fit, P], None],
) -> Callable[Concatenate[Emitter, P], None]:
    """Have a hook be nothing outside of a fit, and close the run where it fails."""

    @wraps(hook)
    def guarded(self: Emitter, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self._fit is not None:
            with told_to(self._fail):
                hook(self, self._fit, *args, **kwargs)

    return guarded


class Emitter(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
    """A callback whose fits are runs on a bus; anywhere in the list of callbacks.

    Keras tells no callback of a failure. One in a training or validation step, or in a handler, is
    seen nevertheless; for one elsewhere, such as in the data or in another callback, use it as a
    context manager: ``with Emitter(bus) as emitter: model.fit(..., callbacks=[emitter])``. Without,
    the run is closed as failed when the next one begins, or as the process ends.

    Its state, the handlers' and the counts of the run, rides in the files of `ModelCheckpoint` and
    `BackupAndRestore`. The latter brings it back; for a file of the former, `load` does.

    Parameters
    ----------
    config, name, state
        As for `Run`.

    Examples
    --------
    >>> import keras, numpy
    >>> from eventbus import EventBus
    >>> from eventbus.loops.keras import Emitter
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def show(epoch, step, metrics): print(epoch, step, round(metrics["loss"], 3))
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "linear", False)])
    >>> model.set_weights([numpy.array([[2.0]])])
    >>> model.compile("sgd", loss="mse")
    >>> ones = numpy.ones((4, 1))
    >>> _ = model.fit(ones, ones, batch_size=2, verbose=0, callbacks=[Emitter(bus)])
    1 2 0.98
    """

    model: Any
    params: Any

    def __init__(
        self,
        bus: EventBus,
        *,
        config: Any = None,
        name: str | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._bus = bus
        self._name = name
        self._context = {"config": config, "state": state}
        self._relay = Relay(bus, "Keras", name=name, cannot=CANNOT)
        self._carried: Mapping[str, Any] | None = None
        self._loaded: Mapping[str, Any] | None = None  # by Keras, as this fit began
        self._carried_from = OWN
        self._has_started = False
        self._fit: Fit | None = None
        self._names: AbstractContextManager[Any] = nullcontext()
        self._stowage = Stowage(self._stow, self._unstow)

    # -- the run

    def set_model(self, model: Any) -> None:
        """Called by Keras before anything else."""
        super().set_model(model)
        self._loaded = None
        vars(model)[ATTRIBUTE] = self._stowage  # `BackupAndRestore` may load before our turn

    def on_train_begin(self, logs: Any = None) -> None:
        """Called by Keras."""
        for other in [one for one in _open if (one._bus, one._name) == (self._bus, self._name)]:
            other._fail(RuntimeError("fit() was left by an exception before this run ended"))
        self._has_started = False
        vars(self.model)[ATTRIBUTE] = self._stowage
        self._names = names_followed(self.model)  # until the last handler has had its turn
        self._fit = Fit(self._relay, self.model, self.params["steps"], self._fail)
        atexit.register(self._leave)
        _open.add(self)
        with told_to(self._fail):
            self._relay.open(
                **self._context,
                model=self.model,
                optimizer=self._fit.view,
                stand_ins={"model": ModelState(self.model)},
            )
            given = self._given
            done = self._relay.epoch if given is None else given["loop"]["epoch"]
            if done:
                self._fit.put(self.model, "_initial_epoch", done)  # whence fit() takes it, once
            self._fit.place()

    def _start(self, epoch: int) -> None:
        # All callbacks have had their turn: what one of them restored has come.
        self._has_started = True
        given, path = self._given, OWN if self._loaded is not None else self._carried_from
        self._carried, self._loaded, self._carried_from = None, None, OWN
        if given is not None:
            self._relay.resume(given, path, within=False)
        elif epoch and epoch != self._relay.epoch:
            self._relay.resume(None, f"initial_epoch={epoch}")
            self._relay.go_on_from(epoch=epoch, step=int(self.model.optimizer.iterations))
        self._relay.start(epochs=self.params["epochs"])

    @_told
    def on_train_end(self, fit: Fit, logs: Any = None) -> None:
        """Called by Keras."""
        if not self._has_started:  # no epoch was left to do
            self._start(self._relay.epoch)
        self._close()
        with self._names:
            self._relay.finish()

    def _fail(self, error: BaseException) -> None:
        self._close()
        with self._names:
            self._relay.fail(error)

    def _close(self) -> None:
        atexit.unregister(self._leave)
        _open.discard(self)
        if self._fit is not None:
            self._fit.leave()
            self._fit = None

    def _leave(self) -> None:
        if self in _open:
            unknown = RuntimeError("fit() was left by an exception")
            self._fail(getattr(sys, "last_value", None) or unknown)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._fail(error)
        self._leave()

    # -- what happens in it

    @_told
    def on_epoch_begin(self, fit: Fit, epoch: int, logs: Any = None) -> None:
        """Called by Keras."""
        if not self._has_started:
            self._start(epoch)
        fit.begin_epoch()

    @_told
    def on_train_batch_begin(self, fit: Fit, batch: int, logs: Any = None) -> None:
        """Called by Keras."""
        fit.begin_batch(trains=True)

    @_told
    def on_epoch_end(self, fit: Fit, epoch: int, logs: Any = None) -> None:
        """Called by Keras."""
        fit.end_epoch()

    def on_predict_begin(self, logs: Any = None) -> None:
        """Called by Keras."""
        if self._fit is None:  # then nothing of ours is to be saved
            vars(self.model).pop(ATTRIBUTE, None)

    def on_test_begin(self, logs: Any = None) -> None:
        """Called by Keras."""
        self.on_predict_begin()
        self._begin_validation()

    @_told
    def _begin_validation(self, fit: Fit) -> None:
        fit.begin_validation()

    @_told
    def on_test_batch_begin(self, fit: Fit, batch: int, logs: Any = None) -> None:
        """Called by Keras."""
        fit.begin_batch(trains=False)

    @_told
    def on_test_end(self, fit: Fit, logs: Any = None) -> None:
        """Called by Keras."""
        fit.end_validation(logs or {})

    # -- state

    def load(self, path: str | Path) -> None:
        """Have the next fit go on from the state in a file that `ModelCheckpoint` saved.

        The weights are Keras's to load: by `keras.models.load_model` or `model.load_weights`. The
        fit begins with the epoch after the saved one, as with `initial_epoch`.

        Raises
        ------
        ValueError
            The file was saved without an emitter.
        """
        self._carried, self._carried_from = stowed_in(path), str(path)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the handlers and the counts, in tensors and plain Python."""
        return dict(self._stow() or {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next fit go on from there."""
        self._carried = state

    def _stow(self) -> Mapping[str, Any] | None:
        if self._fit is None or not self._has_started:
            return self._given
        self._fit.note_end_of_epoch()
        return self._relay.luggage()

    def _unstow(self, state: Mapping[str, Any]) -> None:
        self._loaded = state

    @property
    def _given(self) -> Mapping[str, Any] | None:
        return self._carried if self._loaded is None else self._loaded

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Emitter, name=self._name), (self._bus,)  # inert, and of no fit
