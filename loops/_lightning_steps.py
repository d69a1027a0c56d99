"""The steps of a Lightning fit: the batch on its way to the module, its loss, its gradients."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eventbus.loops._gradients import drop_gradients, hold_gradients
from eventbus.loops._logged import read_output
from eventbus.loops._nested import detached

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer
    from torch import Tensor
    from torch.optim import Optimizer
    from torch.utils.hooks import RemovableHandle

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
        self._held: list[RemovableHandle] = []  # gradients of a batch that is passed over
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
        self._let_go()
        while self._undo:
            self._undo.pop()()

    def begin(self, batch: Any) -> None:
        """Offer the batch, on its device, to the handlers."""
        self.is_left = True
        self._has_batch = batch is not None
        if self._has_batch:
            self._batch = self._relay.load_batch(batch)
        else:  # a module that takes its batches itself, from a `dataloader_iter`
            self._relay.say("Lightning: no batch_loaded where a step takes a dataloader_iter")
            self._relay.begin_step()
        if not self._relay.passes_over:
            self._loss = None

    def _step(self, trainer: Trainer, step: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._relay.is_open:
            return step(*args, **kwargs)
        if self._relay.passes_over:
            if _may_leave_out(trainer):
                return None  # for Lightning: no backward, and this batch adds to no gradients
            self._held = hold_gradients(trainer.optimizers)
        if self._has_batch:
            args = (self._batch, *args[1:])
        output = step(*args, **kwargs)
        if not self._relay.passes_over:
            self._loss = detached(read_output(output).get("loss", self._loss))
        return output

    def _let_go(self) -> None:
        while self._held:
            self._held.pop().remove()

    def see_loss(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        """Keep the loss of a module that optimizes by hand, whose step is still under way."""
        is_by_hand = not (module.automatic_optimization or _is_scaled(trainer))
        if is_by_hand and not self._relay.passes_over:
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
        self._let_go()
        self.is_left = False
        values = {**self._logged.fresh_in_step(trainer), **read_output(outputs)}
        if self._loss is not None and len(trainer.optimizers) == 1:
            values["loss"] = self._loss  # as it was before the accumulation
        self._relay.record(**values)
        self._relay.end_batch()


def _may_leave_out(trainer: Trainer) -> bool:
    # Its scaler gives up the step of the micro-batches before where the last returns nothing.
    is_scaled = _is_scaled(trainer) and trainer.lightning_module.automatic_optimization
    return trainer.world_size == 1 and not is_scaled


def _is_scaled(trainer: Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _take_off(strategy: Any, step: Any) -> None:
    if vars(strategy).get("training_step") is step:
        del strategy.training_step
