"""Keras 3 on torch: what a fit tells its callbacks becomes the signals of a run.

model.fit(..., callbacks=[eventbus.loops.keras.Emitter(bus)])
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from time import perf_counter
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import torch

from eventbus.loops._metrics import scalars
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

from eventbus.loops._keras_model import ATTRIBUTE, ModelState, Stowage, copied, stowed_in
from eventbus.loops._keras_optimizer import OptimizerView, Stepping

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


def _told(hook: Callable[Concatenate[Emitter, P], None]) -> Callable[Concatenate[Emitter, P], None]:
    """Have a hook be nothing outside of a run, and close the run where it fails."""

    @wraps(hook)
    def guarded(self: Emitter, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self._relay.is_open:
            with self._guarded():
                hook(self, *args, **kwargs)

    return guarded


def _eager(call: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a call out of what `compile(jit_compile=True)` compiles."""
    kept: Callable[..., Any] = torch.compiler.disable(call)  # type: ignore[no-untyped-call]  # torch's
    return kept


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
        self._carried_from = OWN
        self._has_started = False
        self._raised: Exception | None = None
        self._placed: list[tuple[Any, str, Any]] = []
        self._stowage = Stowage(self._stow, self._unstow)

    # -- the run

    def set_model(self, model: Any) -> None:
        """Called by Keras before anything else."""
        super().set_model(model)
        if not self._relay.is_open:
            vars(model)[ATTRIBUTE] = self._stowage  # `BackupAndRestore` may load before our turn

    def on_train_begin(self, logs: Any = None) -> None:
        """Called by Keras."""
        for other in [one for one in _open if (one._bus, one._name) == (self._bus, self._name)]:
            other._fail(RuntimeError("fit() was left by an exception before this run ended"))
        self._has_started = False
        optimizer, trained = self.model.optimizer, self.model.trainable_variables
        has_steps = isinstance(optimizer, keras.optimizers.Optimizer) and bool(trained)
        self._view = None
        if has_steps:
            self._view = OptimizerView(optimizer, [one.value for one in trained])
        atexit.register(self._leave)
        _open.add(self)
        with self._guarded():
            self._relay.open(
                **self._context,
                model=self.model,
                optimizer=self._view,
                stand_ins={"model": ModelState(self.model)},
            )
            self._stepping = Stepping(optimizer, self._tell) if has_steps else None
            self._place_all()

    def _place_all(self) -> None:
        model = self.model
        resumed = self._relay.epoch if self._carried is None else self._carried["loop"]["epoch"]
        self._put(model, ATTRIBUTE, self._stowage)
        self._put(model, "train_function", partial(self._train, model.train_function))
        self._put(model, "compute_loss", _eager(partial(self._see_loss, model.compute_loss)))
        self._put(model, "__deepcopy__", partial(copied, model))
        if resumed:
            self._put(model, "_initial_epoch", resumed)  # whence fit() takes it, once
        if self._stepping is not None:
            inner = self._stepping.optimizer
            self._put(inner, "apply", _eager(partial(self._stepping.apply, inner.apply)))

    def _put(self, thing: Any, name: str, value: Any) -> None:
        # Past `__setattr__`, in which Keras keeps track of what it finds.
        self._placed.append((thing, name, vars(thing).get(name, self)))
        vars(thing)[name] = value

    def _put_back(self, *, down_to: int = 0) -> None:
        while len(self._placed) > down_to:
            thing, name, before = self._placed.pop()
            vars(thing)[name] = before
            if before is self or name == ATTRIBUTE:
                del vars(thing)[name]

    def _start(self, epoch: int) -> None:
        # All callbacks have had their turn: what one of them restored has come.
        self._has_started = True
        carried, self._carried = self._carried, None
        if carried is not None:
            self._relay.resume(carried, self._carried_from, within=False)
        elif epoch and epoch != self._relay.epoch:
            self._relay.resume(None, f"initial_epoch={epoch}")
            self._relay.go_on_from(epoch=epoch, step=int(self.model.optimizer.iterations))
        self._carried_from = OWN
        self._relay.start(epochs=self.params["epochs"])

    @_told
    def on_train_end(self, logs: Any = None) -> None:
        """Called by Keras."""
        if not self._has_started:  # no epoch was left to do
            self._start(self._relay.epoch)
        self._close()
        self._relay.finish()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        self._close()
        self._relay.fail(error)

    def _close(self) -> None:
        atexit.unregister(self._leave)
        _open.discard(self)
        self._put_back()

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

    # -- epochs and steps

    @_told
    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Called by Keras."""
        if not self._has_started:
            self._start(epoch)
        self._batches = 0
        self._is_cut = self._is_due = False
        self._logs: Mapping[str, Any] = {}
        if self._stepping is not None:
            self._stepping.begin_epoch()
        self._carry()
        self._relay.begin_epoch()
        self._left_s = perf_counter()

    @_told
    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Called by Keras."""
        self._is_due = True
        self._waited_s = perf_counter() - self._left_s

    def _train(self, original: Callable[[Any], Any], data: Any) -> Any:
        if not (self._relay.is_open and self._is_due):
            return original(data)  # `train_on_batch`, called by somebody within the fit
        self._is_due, self._raised = False, None
        with self._guarded():
            try:
                logs = self._train_on(original, data[0])
            except Exception:
                if self._raised is None:
                    raise
                raise self._raised from None  # not what Keras makes of it on its way
            self._left_s = perf_counter()
            return logs

    def _train_on(self, original: Callable[[Any], Any], batch: Any) -> Any:
        relay = self._relay
        if relay.is_epoch_over:
            self._cut()
            return self.model.get_metrics_result()
        batch = relay.load_batch(batch, self._waited_s)
        self._batches += 1
        if relay.passes_over:
            relay.end_batch(boundary=self._stepping is None or self._stepping.pass_over())
            logs = self.model.get_metrics_result()
        else:
            logs = self._logs = self._trained(original, batch)
        if relay.is_over and self._batches < (self.params["steps"] or 0):
            self._cut()
        return logs

    def _cut(self) -> None:
        self._is_cut = True
        if self._relay.is_over:
            self.model.stop_training = True
        else:
            self._relay.say("Keras cannot end an epoch: the rest of its data is read, and not used")

    def _trained(self, original: Callable[[Any], Any], batch: Any) -> Any:
        relay, stepping = self._relay, self._stepping
        self._seen: dict[str, Any] = {}
        if stepping is not None:
            stepping.was_called = False
        logs = original([batch])
        if not self._seen:
            relay.say("Keras: no loss is known, for this train_step does not call compute_loss()")
        relay.record(**self._seen)
        if stepping is not None and stepping.was_called:
            relay.end_batch()
        elif stepping is not None and stepping.scales:
            relay.skip_step("the loss was scaled by too much: its gradients are not finite")
        else:
            relay.say("Keras: no backward_finished, for this train_step steps by other means")
            relay.end_batch(boundary=True)
        return logs

    def _see_loss(self, original: Callable[..., Any], *args: Any, **named: Any) -> Any:
        loss = original(*args, **named)
        told = {**dict(zip(("x", "y", "y_pred"), args, strict=False)), **named}
        self._seen = {"loss": loss, "outputs": told.get("y_pred"), "targets": told.get("y")}
        return loss

    def _tell(self) -> bool:
        try:
            is_wanted = self._relay.gradients_ready(self._seen.get("loss"))
        except Exception as error:
            self._raised = error
            raise
        self._carry()
        return is_wanted

    def _carry(self) -> None:
        if self._view is not None:
            self._view.carry()

    @_told
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Called by Keras."""
        self._end_epoch()
        if self._relay.is_over:
            self.model.stop_training = True

    def _end_epoch(self) -> None:
        if not self._relay.in_epoch:
            return
        self._carry()
        steps = self.params["steps"] or 0
        was_left = self._is_cut or (self.model.stop_training and self._batches < steps)
        if self._stepping is not None and self._stepping.left_over:
            self._relay.say("Keras carries micro-batches left over in an epoch to the next one")
        self._relay.end_epoch(scalars(self._logs or {}), complete=not was_left)

    # -- validations

    def on_predict_begin(self, logs: Any = None) -> None:
        """Called by Keras."""
        if not self._relay.is_open:  # no fit, in which something might be saved
            vars(self.model).pop(ATTRIBUTE, None)

    def on_test_begin(self, logs: Any = None) -> None:
        """Called by Keras."""
        self.on_predict_begin()
        self._begin_validation()

    @_told
    def _begin_validation(self) -> None:
        self._is_validation_cut = False
        self._hooks = len(self._placed)
        self._put(
            self.model, "test_function", partial(self._test, original=self.model.test_function)
        )
        self._relay.begin_validation()
        self._left_s = perf_counter()

    @_told
    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Called by Keras."""
        self._waited_s = perf_counter() - self._left_s

    def _test(self, data: Any, original: Callable[[Any], Any]) -> Any:
        with self._guarded():
            if self._relay.stop is not None:
                self._is_validation_cut = self.model.stop_evaluating = True
                return self.model.get_metrics_result()
            self._relay.begin_validation_batch(data[0], self._waited_s)
            self._seen = {}
            logs = original(data)
            self._relay.end_validation_batch(**self._seen)
            self._left_s = perf_counter()
            return logs

    @_told
    def on_test_end(self, logs: Any = None) -> None:
        """Called by Keras."""
        self._put_back(down_to=self._hooks)
        results = {} if self._is_validation_cut else scalars(logs or {})
        self._relay.end_validation(results, complete=not self._is_validation_cut)
        self._left_s = perf_counter()

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
        if not (self._relay.is_open and self._has_started):
            return self._carried
        is_trained = self._batches > 0 and not self.model.training
        if is_trained and not self._relay.in_validation:
            with self._guarded():  # the epoch is over, though our turn to hear of it is yet to come
                self._end_epoch()
        return self._relay.luggage()

    def _unstow(self, state: Mapping[str, Any]) -> None:
        if not (self._relay.is_open and self._has_started):
            self._carried = state

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Emitter, name=self._name), (self._bus,)  # inert, and of no fit
