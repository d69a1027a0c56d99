"""Hugging Face: what a Trainer does becomes the signals of a run.

trainer = transformers.Trainer(..., callbacks=[eventbus.loops.huggingface.Emitter(bus)])
"""

from __future__ import annotations

import atexit
import functools
import math
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch

from eventbus.loops._gradients import drop_gradients
from eventbus.loops._metrics import scalars
from eventbus.loops._nested import first_size
from eventbus.loops._relay import Relay

try:
    from transformers import TrainerCallback
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

    from eventbus.loops._trainer import calling_trainer, read_labels, read_outputs, unscale, wrap
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "eventbus.loops.huggingface needs transformers: "
        "pip install 'training-eventbus[huggingface]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from torch.utils.hooks import RemovableHandle
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

    from eventbus import EventBus

__all__ = ["Emitter"]

P = ParamSpec("P")
T = TypeVar("T")

CANNOT = {"loader_opened": "the loader of all epochs is made before the first one"}
SPEED = ("model_preparation_time", "jit_compilation_time")
"""Among the results of an evaluation: no metrics."""


def _closing(method: Callable[P, T]) -> Callable[P, T]:
    """Have a failure inside `method` end the run: a Trainer tells its callbacks of none."""

    @functools.wraps(method)
    def closing(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except BaseException as error:
            emitter = args[0]
            assert isinstance(emitter, Emitter)
            emitter._fail(error)
            raise

    return closing


class Emitter(TrainerCallback):
    """Has the runs of a Trainer speak on a bus.

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
        self._bus, self._name, self._config, self._state = bus, name, config, state
        self._relay = Relay(bus, "Hugging Face", name=name, cannot=CANNOT)
        self._joined: weakref.WeakSet[Trainer] = weakref.WeakSet()
        self._trainer: Any = None
        self._hook: RemovableHandle | None = None
        self._outputs: Any = None
        self._loss: Any = None
        self._sizes: list[int] = []  # of the micro-batches of this step
        self._wait_s: float | None = None
        self._batches = self._behind = 0  # of this epoch; of it, those of an earlier life
        self._drops = False
        self._ending: bool | None = None  # the epoch is over, complete or not, once evaluated
        self._evaluations = 0  # one inside the other
        self._is_cut = False

    # -- a life beside the Trainer's

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._fail(error or RuntimeError("the Trainer left its training without a word"))

    def __reduce__(self) -> tuple[Any, ...]:
        return Emitter, (self._bus,)  # in another process the bus is inert

    def _join(self, trainer: Trainer) -> None:
        self._trainer = trainer
        if trainer in self._joined:
            return
        self._joined.add(trainer)
        for name in (
            "train",
            "get_batch_samples",
            "training_step",
            "evaluate",
            "evaluation_loop",
            "prediction_step",
        ):
            wrap(trainer, name, functools.partial(getattr(self, f"_{name}"), trainer))

    def _speaks_for(self, trainer: Trainer) -> bool:
        return self._relay.is_open and self._trainer is trainer

    # -- the run

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the Trainer."""
        self._join(calling_trainer()[0])

    @_closing
    def _train(self, trainer: Trainer, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        result = call(*args, **kwargs)
        if self._speaks_for(trainer):
            self._finish()
        return result

    @_closing
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the run."""
        trainer, variables = calling_trainer()
        self._fail(RuntimeError("the Trainer began to train again"))
        self._join(trainer)
        atexit.register(self._fail_at_exit)
        if not args.torch_compile:
            self._hook = kwargs["model"].register_forward_hook(self._see_outputs)
        self._ending, self._evaluations, self._drops = None, 0, False
        self._open(args, state, variables.get("resume_from_checkpoint"), kwargs)
        endless = state.num_train_epochs == sys.maxsize  # its data has no length
        self._relay.start(epochs=None if endless else state.num_train_epochs, steps=state.max_steps)
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
        carried = None if path is None else self._carried(path)
        if carried is not None and args.ignore_data_skip and within:
            carried = {**carried, "loop": {**carried["loop"], "position": {}}}
        self._relay.open(
            model=given["model"],
            optimizer=_bare(given["optimizer"]),
            scheduler=given["lr_scheduler"],
            config=self._config,
            state=self._state,
            carried=carried,
            resumed_from=path,
            within_epoch=within > 0,
        )
        if path is not None and carried is None:
            self._relay.go_on_from(epoch=epochs, step=state.global_step)

    @_closing
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the run."""
        self._settle(control)
        self._finish()

    def _finish(self) -> None:
        self._let_go()
        self._relay.finish()

    def _fail(self, error: BaseException) -> None:
        self._let_go()
        self._relay.fail(error)

    def _fail_at_exit(self) -> None:
        self._fail(RuntimeError("the process ended within a training"))

    def _let_go(self) -> None:
        atexit.unregister(self._fail_at_exit)
        self._outputs = self._loss = None
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

    @_closing
    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin an epoch."""
        self._settle(control)
        self._batches, self._behind = self._behind, 0
        self._relay.begin_epoch()
        self._obey(control)

    @_closing
    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End it; where it is evaluated, after that."""
        if not self._relay.in_epoch:
            return
        loader, is_cut = kwargs["train_dataloader"], False
        if control.should_epoch_stop or control.should_training_stop:
            is_cut = not has_length(loader) or self._batches < len(loader)
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

    @_closing
    def _get_batch_samples(
        self, trainer: Trainer, call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        began_s = perf_counter()
        samples, items = call(*args, **kwargs)
        self._wait_s = perf_counter() - began_s
        self._sizes = [first_size(one) or 1 for one in samples]
        return samples, items

    @_closing
    def _training_step(
        self,
        trainer: Trainer,
        call: Callable[..., Any],
        model: Any,
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not self._speaks_for(trainer):
            return call(model, inputs, *args, **kwargs)
        self._batches += 1
        wait_s, self._wait_s = self._wait_s, None
        batch = self._relay.load_batch(inputs, wait_s)
        loss = call(model, batch, *args, **kwargs)
        self._loss = self._share(loss, batch)
        self._relay.record(loss=self._loss, **self._read(batch))
        return loss

    def _share(self, loss: Any, batch: Any) -> Any:
        # A Trainer's losses of micro-batches add up to that of the step; those of a Run have it for
        # their mean, weighted by size.
        if len(self._sizes) <= 1:
            return loss
        return loss * (sum(self._sizes) / (first_size(batch) or 1))

    def _see_outputs(self, module: Any, args: Any, outputs: Any) -> None:
        self._outputs = outputs

    def _read(self, batch: Any) -> dict[str, Any]:
        outputs, self._outputs = self._outputs, None
        told = {
            "outputs": read_outputs(outputs),
            "targets": read_labels(batch, self._trainer.label_names),
        }
        return {key: value for key, value in told.items() if value is not None}

    @_closing
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell of the gradients, after the Trainer's own clipping."""
        unscale(self._trainer, _bare(kwargs["optimizer"]))
        self._drops = not self._relay.gradients_ready(self._loss)
        if self._drops:
            drop_gradients(kwargs["optimizer"])

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the scheduler from stepping where the optimizer did not."""
        if self._drops:  # as Accelerate says it of a float16 step that overflowed
            kwargs["optimizer"]._is_overflow = True

    @_closing
    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End a micro-batch."""
        self._relay.end_batch()
        self._obey(control)
        if control.should_epoch_stop or control.should_training_stop:
            drop_gradients(kwargs["optimizer"])  # else they would go into the next epoch's

    @_closing
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End a step."""
        if self._drops:
            kwargs["optimizer"]._is_overflow = self._drops = False
        self._relay.end_batch()
        self._obey(control)

    # -- validations

    @_closing
    def _evaluate(
        self, trainer: Trainer, call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if not self._speaks_for(trainer):
            return call(*args, **kwargs)
        self._evaluations += 1
        results = call(*args, **kwargs)
        self._evaluations -= 1
        if not self._evaluations:  # else it is one of several data sets
            self._settle(trainer.control)
            self._obey(trainer.control)
        return results

    @_closing
    def _evaluation_loop(
        self,
        trainer: Trainer,
        call: Callable[..., Any],
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        given = (dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if description != "Evaluation" or not self._speaks_for(trainer):
            return call(*given)
        name = metric_key_prefix
        if name == "eval" or name.startswith("eval_"):
            name = f"val{name.removeprefix('eval')}"
        self._is_cut = False
        self._relay.begin_validation(name)
        output = call(*given)
        results = {} if self._is_cut else _results(output.metrics, metric_key_prefix)
        self._relay.end_validation(results, complete=not self._is_cut)
        return output

    @_closing
    def _prediction_step(
        self,
        trainer: Trainer,
        call: Callable[..., Any],
        model: Any,
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        relay = self._relay
        is_silent = not (self._speaks_for(trainer) and relay.in_validation)
        if not is_silent and relay.stop is not None:
            self._is_cut = is_silent = True
            relay.say("Hugging Face evaluates to the end after a Stop: nothing is told of the rest")
        if is_silent:
            return call(model, inputs, *args, **kwargs)
        relay.begin_validation_batch(inputs)
        loss, logits, labels = call(model, inputs, *args, **kwargs)
        told = {} if loss is None else {"loss": loss}
        relay.end_validation_batch(**told, **self._read(inputs))
        return loss, logits, labels

    # -- state, in the Trainer's own checkpoints

    @_closing
    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the state of the handlers and the counts into the checkpoint."""
        self._settle(control)
        luggage = self._relay.luggage()
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if not state.is_world_process_zero:
            return
        if folder.is_dir():
            path = folder / self._file
            torch.save(luggage, path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)
        else:
            self._relay.say(f"no {folder}, so the state of the handlers is not in the checkpoint")

    def _carried(self, path: str) -> Mapping[str, Any] | None:
        file = Path(path, self._file)
        if file.exists():
            carried: Mapping[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            return carried
        self._relay.say(f"there is no {self._file} in {path}: handlers begin anew")
        return None

    @property
    def _file(self) -> str:
        callbacks = self._trainer.callback_handler.callbacks
        number = [one for one in callbacks if isinstance(one, Emitter)].index(self)
        return f"eventbus-{number + 1}.pt" if number else "eventbus.pt"


def _bare(optimizer: Any) -> Any:
    """Return the optimizer that Accelerate has wrapped."""
    return getattr(optimizer, "optimizer", optimizer)


def _results(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    named = {key.removeprefix(f"{prefix}_"): value for key, value in metrics.items()}
    return {key: value for key, value in scalars(named).items() if key not in SPEED}
