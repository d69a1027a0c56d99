"""Ignite: the events of an engine become the signals of a run.

eventbus.loops.ignite.attach(trainer, bus, model=model, optimizer=optimizer, validation=evaluator)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import nn

from eventbus.loops._context import check_context
from eventbus.loops._gradients import hold_gradients, tell_before_step
from eventbus.loops._ignite_evaluation import Evaluation
from eventbus.loops._metrics import scalars
from eventbus.loops._relay import Relay
from eventbus.loops._report import FIELDS

try:
    from ignite.engine import Engine, Events
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "eventbus.loops.ignite needs Ignite: pip install 'training-eventbus[ignite]'",
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from eventbus import EventBus

__all__ = ["Emitter", "attach"]

CANNOT = {"loader_opened": "its data is iterated as it was given to run()"}
OWN = "a checkpoint of Ignite's"
"""What `resumed_from` says: an engine does not know the path that its state came from."""


def attach(
    trainer: Engine,
    bus: EventBus,
    *,
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    models: Mapping[str, Any] | None = None,
    optimizers: Mapping[str, Any] | None = None,
    config: Any = None,
    validation: Engine | Mapping[str, Engine] | None = None,
    loss_fn: nn.Module | None = None,
    report: Callable[[Any], Mapping[str, Any]] | None = None,
    name: str | None = None,
    state: Mapping[str, Any] | None = None,
) -> Emitter:
    """Have the runs of `trainer` speak on `bus`.

    Parameters
    ----------
    model, optimizer, scheduler, models, optimizers, config
        The run's context, which handlers may name. Its state goes into our checkpoints.
    validation
        The evaluator whose runs within the training are validations named "val"; several by name.
        Its metrics become `<name>_<key>`.
    loss_fn
        The criterion that the trainer calls, where it is a module. Its result is then told with
        `backward_finished`, for Ignite tells of the loss only after the step; and it is applied to
        the evaluator's outputs for the loss of each validation batch.
    report
        What the trainer's output means, as keywords of `Run.report`. Unless given, a number or a
        scalar tensor is the `loss`, and a mapping is those keywords.
    name, state
        As for `Run`.

    Returns
    -------
    Emitter
        Put it into Ignite's own checkpoints: `to_save={"trainer": trainer, "eventbus": emitter}`.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.loops import ignite
    >>> from ignite.engine import Engine
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def show(epoch, step, metrics): print(epoch, step, metrics["loss"])
    >>> trainer = Engine(lambda engine, batch: batch / 2)
    >>> _ = ignite.attach(trainer, bus)
    >>> _ = trainer.run([1.0, 3.0], max_epochs=1)
    1 2 1.0
    """
    evaluators = validation if isinstance(validation, Mapping) else {"val": validation}
    _check(trainer, evaluators, loss_fn)
    relay = Relay(bus, "Ignite", name=name, cannot=CANNOT)
    context = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "models": models,
        "optimizers": optimizers,
        "config": config,
    }
    check_context(context)
    context["state"] = state
    emitter = Emitter(relay, trainer, context, report or read_output, loss_fn)
    for label, evaluator in evaluators.items():
        if evaluator is not None:
            emitter.validate_by(label, evaluator)
    return emitter


def _check(trainer: Any, evaluators: Mapping[str, Any], loss_fn: Any) -> None:
    if not isinstance(trainer, Engine):
        raise TypeError(f"ignite.attach(trainer, bus): the trainer is an Engine; got {trainer!r}")
    for evaluator in evaluators.values():
        if evaluator is not None and not isinstance(evaluator, Engine):
            raise TypeError(f"validation= takes the evaluator, an Engine; got {evaluator!r}")
    if loss_fn is not None and not isinstance(loss_fn, nn.Module):
        raise TypeError(
            f"loss_fn= takes the criterion as a module, nn.CrossEntropyLoss(); got {loss_fn!r}"
        )


class Emitter:
    """What `attach` put onto an engine; `detach` takes it off again.

    Its state is that of the bus's handlers and the counts of the run, for Ignite's checkpoints.
    """

    def __init__(
        self,
        relay: Relay,
        trainer: Engine,
        context: Mapping[str, Any],
        report: Callable[[Any], Mapping[str, Any]],
        loss_fn: nn.Module | None,
    ) -> None:
        self._relay = relay
        self._trainer = trainer
        self._context = context
        self._report = report
        self._loss_fn = loss_fn
        self._loss: Any = None
        self._carried: Mapping[str, Any] | None = None
        self._hooks: list[RemovableHandle] = []
        self._held: list[RemovableHandle] = []  # gradients of a batch that is passed over
        self._batches = 0  # of this epoch
        self._is_cut = False
        self._began_s = 0.0
        self._is_loaded = False
        self._stepping: list[Any] = []  # the optimizers whose steps are seen
        self._placed: list[tuple[Engine, Any, Callable[..., None]]] = []
        self._place(trainer, Events.STARTED, self._start)
        self._place_first(trainer, Events.EPOCH_STARTED, self._start_epoch)
        self._place(trainer, Events.GET_BATCH_STARTED, self._wait)
        self._place(trainer, Events.GET_BATCH_COMPLETED, self._load)
        self._place(trainer, Events.ITERATION_STARTED, self._start_batch)
        self._place_first(trainer, Events.ITERATION_COMPLETED, self._end_batch)
        self._place_first(trainer, Events.EPOCH_COMPLETED, self._leave_step)
        self._place(trainer, Events.TERMINATE_SINGLE_EPOCH, self._leave_epoch)
        self._place_first(trainer, Events.TERMINATE, self._terminate)
        self._place(trainer, Events.EXCEPTION_RAISED, self._fail)

    def validate_by(self, name: str, evaluator: Engine) -> None:
        """Take the runs of an evaluator for validations of that name."""
        validation = Evaluation(self._relay, name, evaluator, self._loss_fn, self._start_early)
        self._place(evaluator, Events.STARTED, validation.start)
        self._place(evaluator, Events.ITERATION_STARTED, validation.start_batch)
        self._place(evaluator, Events.ITERATION_COMPLETED, validation.end_batch)
        self._place(evaluator, Events.COMPLETED, validation.finish)

    def detach(self) -> None:
        """Take it off the engines."""
        for engine, event, method in self._placed:
            engine.remove_event_handler(method, event)
        self._placed.clear()
        self._unhook()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the handlers and the counts, in tensors and plain Python.

        Taken on `EPOCH_COMPLETED` it is that after `epoch_finished`: a run that is resumed begins
        with the next epoch, so whatever handlers do at the end of this one belongs into it.
        """
        if not self._relay.is_open:
            return dict(self._carried or {})
        if self._trainer.last_event_name == Events.EPOCH_COMPLETED:
            self._end_epoch(self._trainer)
        return self._relay.luggage()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next run go on from there."""
        self._carried = state

    def _place(self, engine: Engine, event: Any, method: Callable[..., None]) -> None:
        engine.add_event_handler(event, method)
        self._placed.append((engine, event, method))

    def _place_first(self, engine: Engine, event: Any, method: Callable[..., None]) -> None:
        # Before what people placed before `attach`: what they do after a step, or as an epoch
        # begins, is no part of that step, and is one of that epoch.
        self._place(engine, event, method)
        handlers = engine._event_handlers[event]
        handlers.insert(0, handlers.pop())

    # -- the run

    def _start_early(self) -> None:
        # A validation before the first epoch may be placed before us.
        if self._trainer.last_event_name == Events.STARTED:
            self._start(self._trainer)

    def _start(self, trainer: Engine) -> None:
        if self._relay.is_open:  # by a validation
            return
        self._place_last()
        self._hook()
        carried, self._carried = self._carried, None
        state = trainer.state
        is_resumed = bool(carried) or state.iteration > 0
        self._batches = state.iteration % state.epoch_length if state.epoch_length else 0
        self._relay.open(
            **self._context,
            carried=carried or None,
            resumed_from=OWN if is_resumed else None,
            within_epoch=self._batches > 0,
        )
        if is_resumed and not carried:
            self._relay.go_on_from(epoch=state.epoch, step=state.iteration)
        self._relay.start(epochs=state.max_epochs, steps=state.max_iters)
        self._obey()

    def _place_last(self) -> None:
        # After what people placed before they called `run`: their validations are part of the
        # epoch, and whoever is told of an exception does not make it disappear.
        for event, method in (
            (Events.EPOCH_COMPLETED, self._end_epoch),
            (Events.COMPLETED, self._finish),
            (Events.EXCEPTION_RAISED, self._raise),
        ):
            if (self._trainer, event, method) in self._placed:
                self._placed.remove((self._trainer, event, method))
                self._trainer.remove_event_handler(method, event)
            self._place(self._trainer, event, method)

    def _hook(self) -> None:
        given = self._context
        optimizers = {"": given["optimizer"], **(given["optimizers"] or {})}.values()
        self._stepping = [one for one in optimizers if hasattr(one, "register_step_pre_hook")]
        self._hooks = tell_before_step(self._relay, self._stepping, lambda: self._loss)
        if self._loss_fn is not None:
            self._hooks.append(self._loss_fn.register_forward_hook(self._see_loss))
        if not self._stepping:
            self._relay.say("Ignite: without optimizer= no backward_finished, and none is skipped")

    def _see_loss(self, module: nn.Module, args: Any, loss: Any) -> None:
        if not self._relay.passes_over:
            self._loss = loss.detach()

    def _unhook(self) -> None:
        self._let_go()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _terminate(self, trainer: Engine) -> None:
        self._relay.leave_step()
        if trainer.should_terminate == "skip_completed":
            self._finish(trainer)

    def _finish(self, trainer: Engine) -> None:
        self._unhook()
        if self._relay.in_epoch:  # it was terminated within
            self._relay.end_epoch(complete=False)
        self._relay.finish()

    def _fail(self, trainer: Engine, error: BaseException) -> None:
        self._unhook()
        self._relay.fail(error)

    def _raise(self, trainer: Engine, error: BaseException) -> None:
        raise error

    # -- epochs and steps

    def _start_epoch(self, trainer: Engine) -> None:
        self._is_cut = False
        self._relay.begin_epoch()
        if self._relay.is_over:
            self._obey()

    def _wait(self, trainer: Engine) -> None:
        self._began_s = perf_counter()
        self._obey()  # a StopEpoch from the beginning of the epoch: an engine hears it only here

    def _load(self, trainer: Engine) -> None:
        waited_s = perf_counter() - self._began_s
        trainer.state.batch = self._relay.load_batch(trainer.state.batch, waited_s)
        self._is_loaded = True
        self._obey()

    def _start_batch(self, trainer: Engine) -> None:
        self._let_go()
        if not self._is_loaded:  # an engine that runs without data
            self._relay.begin_step()
            self._obey()
        if self._relay.passes_over:
            self._held = hold_gradients(self._stepping)

    def _let_go(self) -> None:
        for hook in self._held:
            hook.remove()
        self._held = []

    def _end_batch(self, trainer: Engine) -> None:
        self._let_go()
        self._is_loaded = False
        self._batches += 1
        self._relay.record(**self._report(trainer.state.output))
        self._relay.end_batch(boundary=None if self._stepping else True)
        if self._batches != trainer.state.epoch_length:
            self._obey()

    def _leave_step(self, trainer: Engine) -> None:
        if self._relay.leave_step():
            self._relay.say(
                "Ignite: gradients of micro-batches left over in an epoch go into the first step "
                "of the next one, unless the trainer drops them"
            )

    def _leave_epoch(self, trainer: Engine, iter_counter: int) -> None:
        self._is_cut = self._is_cut or self._batches != trainer.state.epoch_length
        if trainer.should_terminate_single_epoch == "skip_epoch_completed":
            self._end_epoch(trainer)

    def _end_epoch(self, trainer: Engine) -> None:
        if self._relay.in_epoch:
            self._batches = 0
            self._relay.end_epoch(complete=not self._is_cut)
            self._obey()

    def _obey(self) -> None:
        if self._relay.is_over:
            self._is_cut = True
            self._trainer.terminate()
        elif self._relay.is_epoch_over and self._relay.in_epoch:
            self._is_cut = True
            self._trainer.terminate_epoch()


def read_output(output: Any) -> dict[str, Any]:
    """Take an engine's output for a loss, or for what it names.

    Examples
    --------
    >>> read_output(0.5), read_output({"loss": 0.5, "note": "fine"}), read_output(None)
    ({'loss': 0.5}, {'loss': 0.5}, {})
    """
    if isinstance(output, Mapping):
        fields = {key: output[key] for key in FIELDS if key in output}
        return {**scalars(output), **fields}
    return scalars({"loss": output})
