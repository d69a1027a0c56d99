"""Hugging Face: what a Trainer does becomes the signals of a run.

trainer = transformers.Trainer(..., callbacks=[eventbus.loops.huggingface.Emitter(bus)])
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus.loops._closing import told_to
from eventbus.loops._gradients import drop_gradients
from eventbus.loops._relay import Relay

try:
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

    from eventbus.loops._huggingface_order import shift_epochs
    from eventbus.loops._huggingface_trainer import (
        Guest,
        bare,
        load_luggage,
        save_luggage,
        unscale,
        within_run,
    )
    from eventbus.loops._huggingface_work import Work
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "eventbus.loops.huggingface needs transformers: "
        "pip install 'training-eventbus[huggingface]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from eventbus import EventBus

__all__ = ["Emitter"]

CANNOT = {"loader_opened": "the loader of all epochs is made before the first one"}


class Emitter(Guest):
    """Has the runs of a Trainer speak on a bus.

    Given in `callbacks=` it sees every failure of a training. Added later, by `add_callback`, it
    may miss one outside of steps and evaluations: `with Emitter(bus) as emitter:` around the first
    training then closes the run as failed, else the next training does, or the end of the process.

    Parameters
    ----------
    bus
        Where to emit.
    config
        The run's configuration, which handlers may name.
    name, state
        As for `Run`.

    Examples
    --------
    >>> import tempfile, torch
    >>> from transformers import Trainer, TrainingArguments
    >>> from eventbus import EventBus
    >>> from eventbus.loops import huggingface
    >>> class Model(torch.nn.Linear):
    ...     def forward(self, x, labels):
    ...         return {"loss": (super().forward(x) - labels).square().mean()}
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def show(epoch, step, metrics): print(epoch, step, sorted(metrics))
    >>> arguments = TrainingArguments(
    ...     tempfile.mkdtemp(), num_train_epochs=1, report_to=[], disable_tqdm=True, use_cpu=True,
    ...     save_strategy="no", logging_strategy="no", dataloader_pin_memory=False,
    ... )
    >>> data = [{"x": torch.ones(1), "labels": torch.ones(1)}] * 24
    >>> emitter = huggingface.Emitter(bus)
    >>> trainer = Trainer(Model(1, 1), arguments, train_dataset=data, callbacks=[emitter])
    >>> _ = trainer.train()  # doctest: +ELLIPSIS
    1 3 ['loss']
    ...
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        name: str | None = None,
        config: Any = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._bus = bus
        self._given = {"config": config, "state": state}
        relay = Relay(bus, "Hugging Face", name=name, cannot=CANNOT)
        self._work = Work(relay)
        work = {name: getattr(self._work, name) for name in Work.METHODS}
        super().__init__(relay, {**work, "evaluate": self._evaluate})
        self._hook: RemovableHandle | None = None
        self._unshift: Callable[[], None] = _nothing
        self._behind = 0  # batches of the first epoch that an earlier life has used up
        self._drops = False  # the gradients of this step
        self._ending: bool | None = None  # the epoch is over, complete or not, once evaluated
        self._evaluations = 0  # one inside the other

    def __reduce__(self) -> tuple[Any, ...]:
        return Emitter, (self._bus,)  # in another process the bus is inert

    # -- the run

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the run."""
        path = self._arrive()
        self._ending, self._evaluations, self._drops = None, 0, False
        with told_to(self._fail):
            if not args.torch_compile:
                self._hook = kwargs["model"].register_forward_hook(self._work.see_outputs)
            self._open(args, state, path, kwargs)
            endless = state.num_train_epochs == sys.maxsize  # its data has no length
            epochs = None if endless else state.num_train_epochs
            self._relay.start(epochs=epochs, steps=state.max_steps)
            self._obey(control)

    def _open(
        self,
        args: TrainingArguments,
        state: TrainerState,
        path: str | None,
        given: Mapping[str, Any],
    ) -> None:
        loader, accumulate = given["train_dataloader"], args.gradient_accumulation_steps
        length = math.ceil(len(loader) / accumulate) if has_length(loader) else state.max_steps
        epochs, within = divmod(state.global_step, max(length, 1))
        self._behind = 0 if args.ignore_data_skip else within * accumulate
        carried = None if path is None else load_luggage(Path(path, self._file))
        if path is not None and carried is None:
            self._relay.say(f"there is no {self._file} in {path}: handlers begin anew")
        if carried is not None and args.ignore_data_skip and within:
            carried = {**carried, "loop": {**carried["loop"], "position": {}}}
        self._relay.open(
            model=given["model"],
            optimizer=bare(given["optimizer"]),
            scheduler=given["lr_scheduler"],
            **self._given,
            carried=carried,
            resumed_from=path,
            within_epoch=within > 0,
        )
        if path is not None and carried is None:
            self._relay.go_on_from(epoch=epochs, step=state.global_step)
        if path is None and self._relay.epoch:
            self._unshift = shift_epochs(loader, self._relay.epoch)

    @within_run
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the run."""
        self._settle(control)
        self._let_go()
        self._relay.finish()

    def _let_go(self) -> None:
        super()._let_go()
        self._work.forget()
        self._unshift()
        self._unshift = _nothing
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _obey(self, control: TrainerControl) -> None:
        relay = self._relay
        if relay.is_over or relay.steps_done >= self._trainer.state.max_steps:
            control.should_training_stop = True
        elif relay.in_epoch and relay.is_epoch_over:
            control.should_epoch_stop = True
        if relay.stop is not None:
            control.should_evaluate = False

    # -- epochs

    @within_run
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin an epoch."""
        self._settle(control)
        self._work.batches, self._behind = self._behind, 0
        self._relay.begin_epoch()
        self._obey(control)

    @within_run
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End it; where it is evaluated, after that."""
        if not self._relay.in_epoch:
            self._obey(control)
            return
        self._relay.leave_step()  # another callback has ended the epoch within it
        loader, is_cut = kwargs["train_dataloader"], False
        if control.should_epoch_stop or control.should_training_stop:
            is_cut = not has_length(loader) or self._work.batches < len(loader)
        if self._relay.stop is not None and control.should_evaluate:
            is_cut = True
        self._ending = not is_cut
        self._obey(control)
        if not control.should_evaluate:
            self._settle(control)

    def _settle(self, control: TrainerControl) -> None:
        if self._ending is not None:
            complete, self._ending = self._ending, None
            self._relay.end_epoch(complete=complete)
            self._obey(control)

    # -- steps

    @within_run
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of the gradients, after the Trainer's own clipping."""
        unscale(self._trainer, bare(kwargs["optimizer"]))
        self._drops = not self._relay.gradients_ready(self._work.loss)
        if self._drops:
            drop_gradients(kwargs["optimizer"])

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the scheduler from stepping where the optimizer did not."""
        if self._drops:  # as Accelerate says it of a float16 step that overflowed
            kwargs["optimizer"]._is_overflow = True

    @within_run
    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a micro-batch."""
        self._relay.end_batch()
        self._obey(control)
        if control.should_epoch_stop or control.should_training_stop:
            drop_gradients(kwargs["optimizer"])  # else they would go into the next epoch's

    @within_run
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End a step."""
        if self._drops:
            kwargs["optimizer"]._is_overflow = self._drops = False
        self._relay.end_batch()
        self._obey(control)

    def _evaluate(
        self, trainer: Trainer, call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        self._evaluations += 1
        results = call(*args, **kwargs)
        self._evaluations -= 1
        if not self._evaluations:  # else it is one of several data sets
            self._settle(trainer.control)
            self._obey(trainer.control)
        return results

    # -- state, in the Trainer's own checkpoints

    @within_run
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the state of the handlers and the counts into the checkpoint."""
        self._settle(control)
        luggage = self._relay.luggage()
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if not folder.is_dir():
            self._relay.say(
                f"no {folder}: the state of handlers is not in Hugging Face's checkpoint"
            )
        elif state.is_world_process_zero:
            save_luggage(luggage, folder / self._file)

    @property
    def _file(self) -> str:
        callbacks = self._trainer.callback_handler.callbacks
        number = [one for one in callbacks if isinstance(one, Emitter)].index(self)
        return f"eventbus-{number + 1}.pt" if number else "eventbus.pt"


def _nothing() -> None:
    """There is nothing to undo."""
