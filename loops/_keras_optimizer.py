"""A Keras optimizer as torch's schedulers and our handlers see one, and the moment it steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy
import torch
from torch.optim import Optimizer

__all__ = ["OptimizerView", "Stepping"]


class OptimizerView(Optimizer):
    """A Keras optimizer behind the face of torch's: one parameter group, its rate, its state.

    A rate that is set in the group is carried over to Keras before its next step, and one that is
    set in Keras is taken into the group. It does not step: Keras does.

    Parameters
    ----------
    optimizer
        Keras's, built.
    parameters
        Those that it trains.

    Examples
    --------
    >>> import torch
    >>> adam = keras.optimizers.Adam(0.1)
    >>> weight = keras.Variable([1.0])
    >>> adam.build([weight])
    >>> view = OptimizerView(adam, [weight.value])
    >>> halve = torch.optim.lr_scheduler.LambdaLR(view, lambda step: 0.5)
    >>> view.carry()
    >>> float(adam.learning_rate)
    0.05000000074505806
    """

    def __init__(self, optimizer: Any, parameters: Sequence[torch.Tensor]) -> None:
        self._keras = optimizer
        self._rate = self._keras_rate()
        self._version = self._rate_version()
        super().__init__(parameters, {"lr": self._rate})

    def carry(self) -> None:
        """Bring both to the rate that was set last; the group's, where both were."""
        group = self.param_groups[0]
        if group["lr"] != self._rate:
            self._keras.learning_rate = float(group["lr"])
        elif self._rate_version() == self._version:
            return  # nothing was set, which is found out without reading from a device
        else:
            group["lr"] = self._keras_rate()
        self._rate, self._version = group["lr"], self._rate_version()

    def _keras_rate(self) -> float:
        # Kept in float32, where 0.1 is 0.10000000149: the shortest number that means the same.
        return float(str(numpy.float32(float(self._keras.learning_rate))))

    def _rate_version(self) -> object:
        inner = getattr(self._keras, "inner_optimizer", self._keras)
        rate = inner._learning_rate
        # What computes it, a schedule of Keras's, is asked anew each time.
        return rate.value._version if isinstance(rate, keras.Variable) else object()

    def step(self, closure: Any = None) -> Any:
        """Not for us to do.

        Raises
        ------
        RuntimeError
            Always.
        """
        raise RuntimeError("this is a view of a Keras optimizer, which steps in fit()")

    def state_dict(self) -> dict[str, Any]:
        """Return Keras's variables, the rate among them, as they are on their device."""
        return {"variables": [one.value.detach() for one in self._keras.variables]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Give Keras's variables these values.

        Raises
        ------
        ValueError
            They are of another optimizer, or of another model's.
        """
        own, given = self._keras.variables, state_dict["variables"]
        shapes = [tuple(one.shape) for one in own], [tuple(one.shape) for one in given]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the state is of another optimizer: {len(given)} variables, where this "
                f"{type(self._keras).__name__} has {len(own)}, or not their shapes"
            )
        for variable, value in zip(own, given, strict=True):
            variable.assign(value)
        self.param_groups[0]["lr"] = self._rate = self._keras_rate()
        self._version = self._rate_version()


class Stepping:
    """Stands before each step of a Keras optimizer, with the whole gradients of the step.

    Keras is handed the gradients of each micro-batch, maybe scaled, and adds them up by itself.
    Before the last of a step they are put into the parameters' `grad`: whole, unscaled and averaged
    over its micro-batches; what is in there afterwards is what Keras steps with.

    Parameters
    ----------
    optimizer
        Keras's.
    is_wanted
        Called before each step; says whether it is to be taken.

    Attributes
    ----------
    was_called : bool
        Keras handed over gradients since this was last set to False.
    scales : bool
        The loss is scaled, and where that was too much Keras passes over the step.
    """

    def __init__(self, optimizer: Any, is_wanted: Callable[[], bool]) -> None:
        self.optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self.scales = self.optimizer is not optimizer
        self.was_called = False
        self._is_wanted = is_wanted
        self._per_step = self.optimizer.gradient_accumulation_steps or 1
        # Keras carries what is left over at the end of an epoch, or of a fit, to the next one.
        self._handed = int(self.optimizer._iterations) % self._per_step

    @property
    def left_over(self) -> int:
        """Micro-batches that were handed over since the last step."""
        return self._handed

    def leave_out(self) -> None:
        """One micro-batch is passed over: its step is that of the others, at the same place."""
        if self._per_step > 1:
            trained = self.optimizer._trainable_variables
            self.optimizer.apply([torch.zeros_like(one.value) for one in trained], trained)

    def apply(
        self, original: Callable[..., None], grads: Sequence[Any], trainable_variables: Any = None
    ) -> None:
        """Take the place of the optimizer's method of that name, the `original`."""
        self.was_called = True
        self._handed += 1
        if self._handed < self._per_step:
            original(grads, trainable_variables)
            return
        trained = list(trainable_variables or self.optimizer._trainable_variables)
        self._show(grads, trained)
        if self._is_wanted():
            self._step(original, [one.value.grad for one in trained], trained)
        else:
            self._drop(self._handed - 1)
        self._handed = 0

    def _show(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        scale = self.optimizer.loss_scale_factor or 1.0
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is None or (self._per_step == 1 and scale == 1.0):
                variable.value.grad = gradient
            else:
                whole = gradient / scale + self._sum_of(variable)
                variable.value.grad = whole / self._per_step

    def _sum_of(self, variable: Any) -> Any:
        if self._per_step == 1:
            return 0.0
        return self.optimizer._accumulated_gradients[
            self.optimizer._get_variable_index(variable)
        ].value

    def _step(
        self, original: Callable[..., None], gradients: Sequence[Any], variables: Sequence[Any]
    ) -> None:
        # Keras adds up, divides and unscales once more: have it come to the same.
        scale = (self.optimizer.loss_scale_factor or 1.0) * self._per_step
        if self._per_step > 1:
            self.optimizer._backend_reset_gradient_accumulators()
        if scale != 1.0:
            gradients = [None if one is None else one * scale for one in gradients]
        original(gradients, variables)

    def _drop(self, handed: int) -> None:
        """Have Keras forget the micro-batches of a step that is not taken."""
        if self._per_step > 1:
            self.optimizer._backend_reset_gradient_accumulators()
            with torch.no_grad():
                self.optimizer._iterations.assign(self.optimizer._iterations - handed)
