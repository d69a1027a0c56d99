"""Lightning: the hooks of a Trainer become the signals of a run.

trainer = lightning.Trainer(callbacks=[eventbus.loops.lightning.Emitter(bus)])
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from eventbus.loops._gradients import drop_gradients, hold_gradients
from eventbus.loops._lightning_trainer import context, count_on, is_at_end, limits, more_state
from eventbus.loops._lightning_validation import Validations
from eventbus.loops._logged import Logged, read_output
from eventbus.loops._nested import detached
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
    from torch.utils.hooks import RemovableHandle

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
        self._undo: list[Any] = []
        self._held: list[RemovableHandle] = []  # gradients of a batch that is passed over

    # -- what rides in Lightning's checkpoints

    @property
    def state_key(self) -> str:
        """The key of its state in them: another for each name."""
        return f"eventbus.{self._name or 'train'}"

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the handlers and the counts, in tensors and plain Python."""
        if not self._relay.is_open:
            return dict(self._kept)
        if self._is_left:
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
        self._logged = Logged()
        self._validations = Validations(self._relay, self._logged)
        self._loss: Any = None
        self._random: torch.Tensor | None = None
        self._is_left = self._is_cut = self._borrows = False
        self._relay.open(
            **context(trainer, module, self._config),
            state={**more_state(trainer), **(self._state or {})},
            carried=(carried or None) if path else None,
            resumed_from=None if path is None else str(path),
        )
        self._is_new = not (path and carried)
        if path is None and (self._relay.epoch or self._relay.steps_done):
            self._tell_counts(trainer)
        self._wrap(trainer)

    def _tell_counts(self, trainer: Trainer) -> None:
        """Have Lightning count on from what a handler's checkpoint has behind it."""
        count_on(trainer, epochs=self._relay.epoch, steps=self._relay.steps_done)
        self._is_new = False
        # It then makes the loaders' iterators twice, which draws from the generator twice.
        self._random = torch.get_rng_state()

    def _wrap(self, trainer: Trainer) -> None:
        """Have the steps of the strategy go through here: what a module's step is called by."""
        strategy = trainer.strategy
        step = functools.partial(self._step, trainer, strategy.training_step)
        strategy.training_step = step  # type: ignore[method-assign]  # until `_unwrap`
        self._undo = [functools.partial(_take_off, strategy, step)]
        if not trainer.lightning_module.automatic_optimization:
            for optimizer in trainer.optimizers:
                self._undo.append(optimizer.register_step_pre_hook(self._before_step).remove)

    def _unwrap(self) -> None:
        self._let_go()
        while self._undo:
            self._undo.pop()()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the run, in the middle of an epoch where Lightning goes on there."""
        relay = self._relay
        if not relay.is_open:
            self._open(trainer, pl_module)
        if self._random is not None:
            torch.set_rng_state(self._random)
        if self._is_new and (trainer.current_epoch or trainer.global_step):
            relay.go_on_from(epoch=trainer.current_epoch, step=trainer.global_step)
        self._relay.start(**limits(trainer))
        if relay.resumes_in_epoch:
            relay.begin_epoch()
            if trainer.current_epoch >= relay.epoch:  # it does not come back to that one
                relay.end_epoch(complete=relay.batch_index >= trainer.num_training_batches)
        self._obey(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run; an exit that a `Stop` wants waits until all else is closed."""
        if not self._relay.is_open:
            return
        self._unwrap()
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
        self._unwrap()
        wanted, self._exit = self._exit, None
        if wanted is not None:
            raise wanted

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End the run after a failure, Ctrl-C too."""
        self._unwrap()
        self._relay.fail(exception)

    # -- epochs

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch."""
        self._is_left = self._is_cut = False
        if not self._relay.in_epoch:
            self._relay.begin_epoch()
        self._obey(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the epoch, with what was logged for it as a whole."""
        has_not_validated = self._borrows
        self._give_back(trainer)
        if self._is_cut and (has_not_validated or self._relay.stop is not None):
            # Else schedulers would be stepped that wait for a metric of a validation.
            trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = False
        is_whole = is_at_end(trainer) and not (self._is_cut or self._is_left)
        results = {**self._validations.take_late(), **self._logged.fresh(trainer)}
        self._relay.end_epoch(complete=is_whole, results=results)
        self._obey(trainer)

    def _obey(self, trainer: Trainer) -> None:
        if self._relay.is_over:
            trainer.should_stop = True

    def _cut(self, trainer: Trainer, *, validates: bool = True) -> None:
        """End the epoch after this batch, and validate unless the run is to stop.

        Lightning leaves an epoch at its last batch, or where it is to stop; it validates within if
        one is due, or where it is to stop: for that long, it is told so.
        """
        loop = trainer.fit_loop.epoch_loop
        if not self._relay.is_epoch_over or is_at_end(trainer):
            return
        self._is_cut = loop.batch_progress.is_last_batch = True
        if not self._relay.is_over:
            loop.update_lr_schedulers("epoch", update_plateau_schedulers=False)
            self._borrows = validates and not trainer.should_stop
            trainer.should_stop = trainer.should_stop or validates

    def _give_back(self, trainer: Trainer) -> None:
        if self._borrows:
            self._borrows = trainer.should_stop = False

    # -- steps

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Offer the batch, on its device, to the handlers."""
        if not self._relay.in_epoch:
            self._relay.begin_epoch()
        self._is_left = True
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
            if self._may_leave_out(trainer):
                return None  # for Lightning: no backward, and this batch adds to no gradients
            self._held = hold_gradients(trainer.optimizers)
        if self._has_batch:
            args = (self._batch, *args[1:])
        output = step(*args, **kwargs)
        if not self._relay.passes_over:
            self._loss = detached(read_output(output).get("loss", self._loss))
        return output

    def _may_leave_out(self, trainer: Trainer) -> bool:
        # Its scaler gives up the step of the micro-batches before where the last returns nothing.
        is_scaled = _is_scaled(trainer) and trainer.lightning_module.automatic_optimization
        return trainer.world_size == 1 and not is_scaled

    def _let_go(self) -> None:
        while self._held:
            self._held.pop().remove()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor
    ) -> None:
        """Keep the loss of a module that optimizes by hand, whose step is still under way."""
        is_by_hand = not (pl_module.automatic_optimization or _is_scaled(trainer))
        if is_by_hand and not self._relay.passes_over:
            self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Tell of the gradients, unscaled, before Lightning clips them."""
        self._tell_of_gradients(optimizer)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Mapping[str, Any]) -> None:
        # By hand, and past Lightning: its own steps go by a closure, which comes to the hook.
        if kwargs.get("closure") is None:
            self._tell_of_gradients(optimizer)

    def _tell_of_gradients(self, optimizer: Optimizer) -> None:
        if self._relay.is_open and not self._relay.gradients_ready(self._loss):
            drop_gradients(optimizer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """End the micro-batch, with what the module returned and logged."""
        self._let_go()
        self._is_left = False
        values = {**self._logged.fresh_in_step(trainer), **read_output(outputs)}
        if self._loss is not None and len(trainer.optimizers) == 1:
            values["loss"] = self._loss  # as it was before the accumulation
        self._relay.record(**values)
        self._relay.end_batch()
        self._cut(trainer)

    # -- validations

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the validation by the first of the loaders."""
        if self._relay.is_open and not trainer.sanity_checking:
            self._give_back(trainer)
            self._validations.begin(trainer)

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
            self._validations.begin_batch(trainer, batch, dataloader_idx)

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
            self._validations.end_batch(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the validation, with what the module logged."""
        if self._relay.in_validation:
            self._validations.end(trainer)
            self._cut(trainer, validates=False)
            self._obey(trainer)


def _is_scaled(trainer: Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _take_off(strategy: Any, step: Any) -> None:
    if vars(strategy).get("training_step") is step:
        del strategy.training_step
