"""The steps of a Lightning fit: the batch on its way to the module, its loss, its gradients."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eventbus.loops._gradients import drop_gradients
from eventbus.loops._logged import read_output
from eventbus.loops._nested import detached

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer
    from torch import Tensor
    from torch.optim import Optimizer

    from eventbus.loops._logged import Logged
    from eventbus.loops._relay import Relay

__all__ = ["Steps"]


class Steps:
    """Relays one step after the other.

    Parameters
    ----------
    relay
        Where to tell.
    logged
        What the module logs.

    Attributes
    ----------
    is_left : bool
        A micro-batch has begun that has not ended.
    """

    def __init__(self, relay: Relay, logged: Logged) -> None:
        self._relay = relay
        self._logged = logged
        self._loss: Any = None
        self._batch: Any = None
        self._has_batch = False
        self._undo: list[Any] = []
        self.is_left = False

    def wrap(self, trainer: Trainer) -> None:
        """Have the steps of the strategy go through here: what a module's step is called by."""
        strategy = trainer.strategy
        step = functools.partial(self._step, trainer, strategy.training_step)
        strategy.training_step = step  # type: ignore[method-assign]  # until `unwrap`
        self._undo = [functools.partial(_take_off, strategy, step)]
        if not trainer.lightning_module.automatic_optimization:
            for optimizer in trainer.optimizers:
                self._undo.append(optimizer.register_step_pre_hook(self._before_step).remove)

    def unwrap(self) -> None:
        """Have them go as before."""
        while self._undo:
            self._undo.pop()()

    def begin(self, batch: Any) -> None:
        """Offer the batch, on its device, to the handlers."""
        self.is_left, self._loss = True, None
        self._has_batch = batch is not None
        if self._has_batch:
            self._batch = self._relay.load_batch(batch)
        else:  # a module that takes its batches itself, from a `dataloader_iter`
            self._relay.say("Lightning: no batch_loaded where a step takes a dataloader_iter")
            self._relay.begin_step()

    def _step(self, trainer: Trainer, step: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._relay.is_open:
            return step(*args, **kwargs)
        if self._relay.passes_over and trainer.world_size == 1:
            return None  # for Lightning: no backward, and a step without gradients
        if self._has_batch:
            args = (self._batch, *args[1:])
        output = step(*args, **kwargs)
        self._loss = detached(read_output(output).get("loss", self._loss))
        return output

    def see_loss(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        """Keep the loss of a module that optimizes by hand, whose step is still under way."""
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if not (module.automatic_optimization or is_scaled):
            self._loss = loss.detach()

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Mapping[str, Any]) -> None:
        # By hand, and past Lightning: its own steps go by a closure, which comes to the hook.
        if kwargs.get("closure") is None:
            self.tell_of_gradients(optimizer)

    def tell_of_gradients(self, optimizer: Optimizer) -> None:
        """Tell of the gradients, and drop them where no step is wanted."""
        if self._relay.is_open and not self._relay.gradients_ready(self._loss):
            drop_gradients(optimizer)

    def end(self, trainer: Trainer, outputs: Any) -> None:
        """End the micro-batch, with what the module returned and logged."""
        self.is_left = False
        values = {**self._logged.fresh_in_step(trainer), **read_output(outputs)}
        if self._loss is not None and len(trainer.optimizers) == 1:
            values["loss"] = self._loss  # as it was before the accumulation
        self._relay.record(**values)
        self._relay.end_batch()


def _take_off(strategy: Any, step: Any) -> None:
    if vars(strategy).get("training_step") is step:
        del strategy.training_step
