"""Lightning: the hooks of a Trainer become the signals of a run.

trainer = lightning.Trainer(callbacks=[eventbus.loops.lightning.Emitter(bus)])
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from eventbus.loops._lightning_fit import Fit
from eventbus.loops._lightning_trainer import context, count_on, is_at_end, limits, more_state
from eventbus.loops._relay import Relay

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "eventbus.loops.lightning needs Lightning: pip install 'training-eventbus[lightning]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer
    from torch.optim import Optimizer

    from eventbus import EventBus

__all__ = ["Emitter"]

CANNOT = {"loader_opened": "it makes its loaders before the first epoch"}


class Emitter(Callback):
    """Has the fits of a Trainer speak on a bus.

    What the module logs is told beside the loss: in training under the keys it logs, per step or
    for the epoch; in a validation as `val_<key>`, where a prefix `val_`, `val/`, `valid_` or
    `validation_` is not put twice. Several validation loaders are validations of their own, named
    "val", "val_1" and so on. Several optimizers are named "0", "1" and so on.

    Parameters
    ----------
    bus
        Where to emit.
    config
        The run's configuration, which handlers may name; the module's `hparams` unless given.
    name, state
        As for `Run`.

    Examples
    --------
    >>> import lightning, torch
    >>> from eventbus import EventBus
    >>> from eventbus.loops.lightning import Emitter
    >>> class Module(lightning.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(1, 1)
    ...     def training_step(self, batch):
    ...         return self.layer(batch).square().mean()
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def show(epoch, step, metrics): print(epoch, step, sorted(metrics))
    >>> trainer = lightning.Trainer(
    ...     max_epochs=1, callbacks=[Emitter(bus)], accelerator="cpu", logger=False,
    ...     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ... )
    >>> trainer.fit(Module(), torch.utils.data.DataLoader(torch.ones(6, 1), batch_size=2))
    1 3 ['loss']
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        name: str | None = None,
        config: Any = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._bus, self._name, self._config, self._state = bus, name, config, state
        self._relay = Relay(bus, "Lightning", name=name, cannot=CANNOT)
        self._carried: Mapping[str, Any] = {}  # of the checkpoint to go on from
        self._kept: Mapping[str, Any] = {}  # of the last run, for one saved after it
        self._exit: SystemExit | None = None
        self._fit = Fit(self._relay)

    # -- what rides in Lightning's checkpoints

    @property
    def state_key(self) -> str:
        """The key of its state in them: another for each name."""
        return f"eventbus.{self._name or 'train'}"

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the handlers and the counts, in tensors and plain Python."""
        if not self._relay.is_open:
            return dict(self._kept)
        if self._fit.steps.is_left:
            self._relay.say(
                "Lightning saves a checkpoint before the step under way is told of: list the "
                "Emitter before the callback that saves"
            )
        return self._relay.luggage()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next fit go on from there."""
        self._carried = state_dict

    def __reduce__(self) -> tuple[Any, ...]:
        given = {"name": self._name, "config": self._config, "state": self._state}
        return functools.partial(Emitter, **given), (self._bus,)

    # -- the run

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the run, unless the strategy restores checkpoints only later."""
        self._exit = None
        if not (trainer.strategy.restore_checkpoint_after_setup and trainer.ckpt_path):
            self._open(trainer, pl_module)

    def _open(self, trainer: Trainer, module: LightningModule) -> None:
        path, carried, self._carried = trainer.ckpt_path, self._carried, {}
        self._fit = Fit(self._relay)
        self._relay.open(
            **context(trainer, module, self._config),
            state={**more_state(trainer), **(self._state or {})},
            carried=(carried or None) if path else None,
            resumed_from=None if path is None else str(path),
        )
        self._fit.is_new = not (path and carried)
        if path is None and (self._relay.epoch or self._relay.steps_done):
            self._tell_counts(trainer)
        self._fit.steps.wrap(trainer)

    def _tell_counts(self, trainer: Trainer) -> None:
        """Have Lightning count on from what a handler's checkpoint has behind it."""
        count_on(trainer, epochs=self._relay.epoch, steps=self._relay.steps_done)
        self._fit.is_new = False
        # It then makes the loaders' iterators twice, which draws from the generator twice.
        self._fit.random = torch.get_rng_state()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the run, in the middle of an epoch where Lightning goes on there."""
        relay = self._relay
        if not relay.is_open:
            self._open(trainer, pl_module)
        if self._fit.random is not None:
            torch.set_rng_state(self._fit.random)
        if self._fit.is_new and (trainer.current_epoch or trainer.global_step):
            relay.go_on_from(epoch=trainer.current_epoch, step=trainer.global_step)
        self._relay.start(**limits(trainer))
        if relay.resumes_in_epoch:
            relay.begin_epoch()
            if trainer.current_epoch >= relay.epoch:  # it does not come back to that one
                relay.end_epoch(complete=relay.batch_index >= trainer.num_training_batches)
        self._fit.stopping.obey(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run; an exit that a `Stop` wants waits until all else is closed."""
        if not self._relay.is_open:
            return
        self._fit.steps.unwrap()
        self._relay.start(**limits(trainer))
        # Asked for whether or not one will be saved: handlers may let go of it once it is closed.
        self._kept = self._relay.luggage()
        try:
            self._relay.finish()
        except SystemExit as wanted:
            self._exit = wanted

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a run that had nothing to train."""
        self.on_train_end(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the process where a `Stop` wanted that."""
        self._fit.steps.unwrap()
        wanted, self._exit = self._exit, None
        if wanted is not None:
            raise wanted

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End the run after a failure, Ctrl-C too."""
        self._fit.steps.unwrap()
        self._relay.fail(exception)

    # -- epochs

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch."""
        self._fit.stopping.begin_epoch()
        self._fit.steps.is_left = False
        if not self._relay.in_epoch:
            self._relay.begin_epoch()
        self._fit.stopping.obey(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the epoch, with what was logged for it as a whole."""
        fit = self._fit
        fit.stopping.end_epoch(trainer)
        is_whole = is_at_end(trainer) and not (fit.stopping.is_cut or fit.steps.is_left)
        results = {**fit.validations.take_late(), **fit.logged.fresh(trainer)}
        self._relay.end_epoch(complete=is_whole, results=results)
        fit.stopping.obey(trainer)

    # -- steps

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Offer the batch, on its device, to the handlers."""
        if not self._relay.in_epoch:
            self._relay.begin_epoch()
        self._fit.steps.begin(batch)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor
    ) -> None:
        """Keep the loss of a module that optimizes by hand, whose step is still under way."""
        self._fit.steps.see_loss(trainer, pl_module, loss)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Tell of the gradients, unscaled, before Lightning clips them."""
        self._fit.steps.tell_of_gradients(optimizer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End the micro-batch, with what the module returned and logged."""
        self._fit.steps.end(trainer, outputs)
        self._fit.stopping.cut(trainer)

    # -- validations

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the validation by the first of the loaders."""
        if self._relay.is_open and not trainer.sanity_checking:
            self._fit.stopping.give_back(trainer)
            self._fit.validations.begin(trainer)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Begin a batch, with the validation by the next loader where it is of that."""
        if self._relay.in_validation:
            self._fit.validations.begin_batch(trainer, batch, dataloader_idx)

    def on_validation_batch_end(  # noqa: PLR0917 - Lightning's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End a batch, with what the module returned."""
        if self._relay.in_validation:
            self._fit.validations.end_batch(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the validation, with what the module logged."""
        if self._relay.in_validation:
            self._fit.validations.end(trainer)
            self._fit.stopping.cut(trainer, validates=False)
            self._fit.stopping.obey(trainer)
