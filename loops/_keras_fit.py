"""One fit of a Keras model, from the first of its epochs on: its steps and its validations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import keras
import torch

from eventbus.loops._closing import told_to
from eventbus.loops._keras_model import ATTRIBUTE, copied
from eventbus.loops._keras_optimizer import OptimizerView, Stepping
from eventbus.loops._metrics import scalars

if TYPE_CHECKING:
    from eventbus.loops._relay import Relay

__all__ = ["Fit"]

Fail = Callable[[BaseException], None]


class Fit:
    """What happens in a fit, told to a relay; stands around the steps of the model meanwhile.

    Parameters
    ----------
    model
        Compiled, and built.
    steps
        Batches of an epoch, where Keras knows.
    fail
        Ends the run after an exception.

    Attributes
    ----------
    view : OptimizerView or None
        The model's optimizer, where it has one and something to train.
    """

    def __init__(self, relay: Relay, model: Any, steps: int | None, fail: Fail) -> None:
        self._relay, self._model, self._fail = relay, model, fail
        self._steps = steps or 0
        self.view: OptimizerView | None = None
        self._stepping: Stepping | None = None
        trained = model.trainable_variables
        if trained and isinstance(model.optimizer, keras.optimizers.Optimizer):
            self.view = OptimizerView(model.optimizer, [one.value for one in trained])
        self._placed: list[tuple[Any, str, Any]] = []
        self._batches = 0  # of this epoch
        self._is_due = self._is_cut = self._is_validation_cut = False
        self._logs: Mapping[str, Any] = {}
        self._seen: dict[str, Any] = {}
        self._raised: Exception | None = None
        self._left_s = self._waited_s = 0.0

    # -- around the model

    def place(self) -> None:
        """Stand around the steps of the model."""
        model = self._model
        self.put(model, "train_function", partial(self._train, model.train_function))
        self.put(model, "compute_loss", _eager(partial(self._see_loss, model.compute_loss)))
        self.put(model, "__deepcopy__", partial(copied, model))
        if self.view is not None:
            self._stepping = Stepping(model.optimizer, self._tell)
            inner = self._stepping.optimizer
            self.put(inner, "apply", _eager(partial(self._stepping.apply, inner.apply)))

    def put(self, thing: Any, name: str, value: Any) -> None:
        """Give an attribute of its own to a thing of Keras's, for the time of the fit."""
        # Past `__setattr__`, in which Keras keeps track of what it finds.
        self._placed.append((thing, name, vars(thing).get(name, self)))
        vars(thing)[name] = value

    def leave(self) -> None:
        """Put back all as it was."""
        while self._placed:
            self._put_back()
        vars(self._model).pop(ATTRIBUTE, None)

    def _put_back(self) -> None:
        thing, name, before = self._placed.pop()
        vars(thing)[name] = before
        if before is self:  # there was none
            del vars(thing)[name]

    # -- epochs and steps

    def begin_epoch(self) -> None:
        """Begin an epoch."""
        self._batches = 0
        self._is_cut = self._is_due = False
        self._logs = {}
        self._carry()
        self._relay.begin_epoch()
        self._left_s = perf_counter()

    def begin_batch(self, *, trains: bool) -> None:
        """A batch has come: of the training, or of a validation."""
        self._is_due = trains
        self._waited_s = perf_counter() - self._left_s

    def _train(self, original: Callable[[Any], Any], data: Any) -> Any:
        if not self._is_due:
            return original(data)  # `train_on_batch`, called by somebody within the fit
        self._is_due, self._raised = False, None
        with told_to(self._fail):
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
            return self._model.get_metrics_result()
        batch = relay.load_batch(batch, self._waited_s)
        self._batches += 1
        if relay.passes_over:
            if self._stepping is not None and not relay.is_epoch_over:
                self._stepping.leave_out()
            relay.end_batch()
            logs = self._model.get_metrics_result()
        else:
            logs = self._logs = self._trained(original, batch)
        if relay.is_over and self._batches < self._steps:
            self._cut()
        return logs

    def _cut(self) -> None:
        self._is_cut = True
        if self._relay.is_over:
            self._model.stop_training = True
        else:
            self._relay.say("Keras cannot end an epoch: the rest of its data is read, and not used")

    def _trained(self, original: Callable[[Any], Any], batch: Any) -> Any:
        relay, stepping = self._relay, self._stepping
        self._seen = {}
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
        if self.view is not None:
            self.view.carry()

    def end_epoch(self) -> None:
        """End the epoch, where that was not told yet."""
        if not self._relay.in_epoch:
            return
        self._carry()
        was_left = self._is_cut or (self._model.stop_training and self._batches < self._steps)
        if self._stepping is not None and self._stepping.left_over:
            self._relay.say("Keras carries micro-batches left over in an epoch to the next one")
        self._relay.end_epoch(scalars(self._logs or {}), complete=not was_left)
        if self._relay.is_over:
            self._model.stop_training = True

    def note_end_of_epoch(self) -> None:
        """End the epoch if Keras is done with its work, though the hook is yet to be called."""
        is_trained = self._batches > 0 and not self._model.training
        if is_trained and not self._relay.in_validation:
            with told_to(self._fail):
                self.end_epoch()

    # -- validations

    def begin_validation(self) -> None:
        """Begin a validation; silent once a `Stop` is pending."""
        self._is_validation_cut = False
        test = partial(self._test, original=self._model.test_function)
        self.put(self._model, "test_function", test)
        self._relay.leave_step()
        self._relay.begin_validation()
        self._left_s = perf_counter()

    def _test(self, data: Any, original: Callable[[Any], Any]) -> Any:
        with told_to(self._fail):
            if self._relay.stop is not None:
                self._is_validation_cut = self._model.stop_evaluating = True
                return self._model.get_metrics_result()
            self._relay.begin_validation_batch(data[0], self._waited_s)
            self._seen = {}
            logs = original(data)
            self._relay.end_validation_batch(**self._seen)
            self._left_s = perf_counter()
            return logs

    def end_validation(self, logs: Mapping[str, Any]) -> None:
        """End the validation, with what Keras computed."""
        self._put_back()
        results = {} if self._is_validation_cut else scalars(logs)
        self._relay.end_validation(results, complete=not self._is_validation_cut)
        self._left_s = perf_counter()


def _eager(call: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a call out of what `compile(jit_compile=True)` compiles."""
    kept: Callable[..., Any] = torch.compiler.disable(call)  # type: ignore[no-untyped-call]  # torch's
    return kept
