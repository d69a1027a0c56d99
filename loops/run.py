"""`Run`: the loop's side of the bus, for loops that people write themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from eventbus import Answers, Declaration, EventBus, Stop
from eventbus.handler_names import check_own_name
from eventbus.loops._context import check_context, named_parts
from eventbus.loops._counts import Counts
from eventbus.loops._exchange import Wish, check_wish
from eventbus.loops._frozen import Frozen
from eventbus.loops._loop_over_batches import Batches
from eventbus.loops._loop_over_epochs import Epochs
from eventbus.loops._loop_over_steps import Steps
from eventbus.loops._loop_over_validation import Validation
from eventbus.loops._metrics import Metrics
from eventbus.loops._nested import detached
from eventbus.loops._own_signals import check_not_own
from eventbus.loops._redone import Redone
from eventbus.loops._run_span import RunSpan
from eventbus.loops._schedules import Schedules
from eventbus.loops._validation import HeldValidation

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from eventbus.loops._spans import Spans

__all__ = ["Run"]

P = ParamSpec("P")
T = TypeVar("T")


class Run:
    """Emits the signals of a training run around a loop that stays yours.

    It never steps, scales, zeroes or moves anything. A span (epoch, batch, validation) is closed
    by the next call on the Run, so `break`, `return` and exceptions need no care.

    * A batch is *finished* when its body ran to the end, or was left by `break` after a report;
      else it is *skipped*, and so it is when the answers to `run.emit` held a `.skip`. Python does
      not tell `continue` from the end of a body: where no step is taken, write
      `run.skip("why"); continue`.
    * An epoch is *finished*, with `complete=False` after `break` or `StopEpoch`, and *interrupted*
      when a `Stop` or a failure left work undone.
    * A `Stop` takes effect before the first batch of a step is loaded, in answer to its
      `batch_started`, after each validation batch, and at the start and the end of an epoch; a
      `StopEpoch` likewise before a step of its epoch. Without epochs a `StopEpoch` ends nothing.
      One that comes from elsewhere while a batch is loaded and given, or within accumulated
      micro-batches, lets that step be taken whole: a run that is resumed after it ends as one that
      was never stopped.
    * With several ranks both wait until all have agreed on them, which may be a step later.
    * In another process, such as a DataLoader's worker, it is inert like the bus: `emit` calls
      nobody and gives no answers, `report` keeps nothing, whichever way the process was started.
    * Runs side by side, in several threads, need a bus each: a handler has the state of one run.

    Parameters
    ----------
    bus
        Where to emit.
    model, optimizer, scheduler, models, optimizers, config
        The run's context, which handlers may name. Its state goes into checkpoints, that of a
        model as the plain one has it, without `torch.compile` or data parallelism around it; what
        has no `state_dict` is told when the first one is made.
    name
        The label of the sender; "train" unless given. A Run opened inside another needs its own:
        it reaches only subscriptions with that `sender=`, and keeps its state under `<name>.`.
    state
        More that belongs into checkpoints, by key: anything with `state_dict` and
        `load_state_dict`, such as a gradient scaler.
    run_id
        What tells this run from all others; made up unless given.
    ranks
        "agree": where torch.distributed is initialised when the Run is opened, all ranks open it,
        and an answer takes effect where all have agreed on it (`docs/several-ranks.md`). A group
        of gloo instead of the default one, for fewer ranks or for a timeout of its own. "alone": a
        Run that has nothing to do with other ranks. A Run inside another goes with that one.

    Examples
    --------
    >>> from eventbus import EventBus, Stop
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def good_enough(epoch, metrics):
    ...     print(epoch, metrics["loss"])
    ...     return Stop("good enough") if metrics["loss"] < 0.3 else None
    >>> with Run(bus) as run:
    ...     for epoch in run.epochs(30):
    ...         for batch in run.batches([[1, 2], [3]]):
    ...             run.report(loss=1 / (1 + run.step), batch_size=len(batch))
    1 0.4444444444444444
    2 0.2333333333333333
    >>> run.outcome, run.stop.reason, run.stop.by, run.step
    ('stopped', 'good enough', 'good_enough', 4)
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        models: Mapping[str, Any] | None = None,
        optimizers: Mapping[str, Any] | None = None,
        config: Any = None,
        name: str | None = None,
        state: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        ranks: Wish = "agree",
    ) -> None:
        if not isinstance(bus, EventBus):
            raise TypeError(f"Run takes an EventBus; got {bus!r}")
        context = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "models": models,
            "optimizers": optimizers,
            "config": config,
            "run_id": run_id,
        }
        check_context(context)
        check_wish(ranks)
        check_own_name(name)
        self.bus = bus
        self._ranks: Wish = ranks
        self._name = name
        self._context = context
        self._parts = named_parts(context, state)
        self._extra = {key: self._parts[key] for key in state or {}}
        self._counts = Counts()
        self._span: RunSpan | None = None

    # -- the loops

    def epochs(self, epochs: int) -> Epochs:
        """Iterate over the numbers of the epochs to be done, up to `epochs` in all.

        Starts after the last one done, here or in the checkpoint it goes on from. Within an epoch,
        what is done of its batches and validations is passed over; other code runs again, and a
        scheduler that it steps is as it was before it did.
        """
        return Epochs(self._spans, _checked_count("epochs", epochs))

    def steps(self, steps: int) -> Steps:
        """Iterate over the numbers of the steps to be done, up to `steps` in all: a loop by steps.

        `batch_started` comes before each body and `batch_finished` after it; no data is loaded.
        A skipped step comes again under its number. Without an epoch around it `epoch` stays 0.
        Resumed, the body draws what it would have drawn; an iterator over data begins anew, which
        `batches` takes care of, and what one body hands to the next is kept in `state=` or lost.
        """
        return Steps(self._spans, _checked_count("steps", steps))

    def batches(self, loader: Iterable[T], accumulate: int = 1) -> Batches[T]:
        """Iterate over the training batches of one pass over `loader`.

        Parameters
        ----------
        loader
            Any iterable. Its sampler's `set_epoch` is called with the epoch counted from 0; a `zip`
            or `enumerate` of loaders hides it. Resumed within the data: at once with
            `ResumableSampler` or torchdata's, else by reading again.
        accumulate
            Micro-batches per optimizer step: step where `run.boundary` is true, which it is on
            the last micro-batch of an epoch, too. A report is for one micro-batch; the step's
            metrics are the means weighted by batch size. A loader without a length is then read
            one batch ahead; otherwise nothing is.
        """
        _check_loader("batches", loader)
        return Batches(self._spans, loader, _checked_count("accumulate", accumulate, least=1))

    def validate(self, loader: Iterable[T], name: str | None = None) -> Validation[T]:
        """Iterate over the batches of a validation; over nothing once a `Stop` is pending.

        What is reported in its body is averaged by batch size and becomes `<name>_<key>`; the name
        is "val" unless given. After `break` the validation is done with what was reported.
        In the body of a step: a step that was reported is finished first, one that was not stays
        open around the validation. Inside `with run.validation()` it is a part of that one.

        Notes
        -----
        Resumed, a body is not entered in its middle. A checkpoint that is due within the body of
        a step, or before a validation after the report is done, waits, so that a run that is killed
        there goes on exactly. A validation that a `Stop` cuts is done
        again if it is at the top of the body and `if run.stop: break` follows it; elsewhere in the
        body a resumed run leaves it out, with a warning. `docs/writing-loops.md` has the limits.
        """
        _check_loader("validate", loader)
        return Validation(self._spans, loader, name)

    def validation(self, name: str = "val") -> HeldValidation:
        """Hold a validation open for a `with` block, for results that are computed elsewhere.

        What is reported in the block, outside of a batch, is taken as it is, as `<name>_<key>`.
        Once a `Stop` is pending it emits and records nothing.
        """
        return HeldValidation(self._spans, name)

    # -- in the body of a loop

    @property
    def boundary(self) -> bool:
        """True where the optimizer is to step: on the last micro-batch of a step."""
        batch = self._spans.batch
        return batch is None or batch.boundary

    @property
    def accumulate(self) -> int:
        """Micro-batches per optimizer step, as `run.batches` was told; 1 outside of it."""
        batch = self._spans.batch
        owner = None if batch is None else batch.owner()
        return owner.accumulate if isinstance(owner, Batches) else 1

    @property
    def interrupted(self) -> bool:
        """True once a `Stop` has cut work of this epoch short: its end waits for a resumed run."""
        epoch = self._use().epoch
        return epoch is not None and epoch.was_cut

    def report(self, **values: Any) -> None:
        """Record metrics of the batch under way, else of the validation, else of the epoch.

        Numbers or scalar tensors, which stay on their device: no synchronisation. `batch_size`,
        `outputs` and `targets` become the fields of the same name, `loss` becomes a field as well
        as a metric.

        Raises
        ------
        ValueError
            A key that was reported already, or a tensor of more than one element.
        """
        span = self._span  # `_spans` is one call more, in each step
        (self._spans if span is None else span.spans).record(values)

    def skip(self, reason: str) -> None:
        """Count the batch under way as skipped; the loop says `continue`.

        What `.skip` among the answers to `emit` has come from a handler: the number of the step is
        not used up, its data is, and nothing that was reported for it counts. Of accumulated
        micro-batches each is left out by itself, and the last one with all of its step; gradients
        that are there by then are the loop's to drop (`optimizer.zero_grad()`). With
        several ranks all of them say it, or none.

        Raises
        ------
        RuntimeError
            No batch is under way: outside of `run.batches` and `run.steps`, in a validation, and
            where a validation has finished a step that was reported.
        """
        if not isinstance(reason, str) or not reason:
            raise TypeError(f"run.skip takes a reason, a non-empty string; got {reason!r}")
        self._use().skip(reason)

    @overload
    def emit(self, signal: str, /, **fields: Any) -> Answers: ...
    @overload
    def emit(self, signal: Declaration[P], /, *args: P.args, **fields: P.kwargs) -> Answers: ...
    def emit(self, signal: Any, /, *args: Any, **fields: Any) -> Answers:
        """Emit a signal of this run; epoch and step are filled in where it has them.

        `loss`, `outputs` and `targets` are detached. A loop that emits `backward_finished` should
        honour a `.skip` in the answers: its step counts as skipped.

        Raises
        ------
        ValueError
            A signal that the Run emits itself, such as `epoch_finished`: what it carries is
            reported.
        """
        check_not_own(signal)
        spans = self._use()
        for key in ("loss", "outputs", "targets"):
            if key in fields:
                fields[key] = detached(fields[key])
        self._fill_in(signal, fields)
        answers = spans.emitter.emit(signal, *args, **fields)
        if spans.ranks is not None:
            answers = spans.ranks.heard(signal, answers)
        if answers.skip is not None and spans.batch is not None:
            spans.batch.tell_to_skip()
        return answers

    def transform(self, signal: Any, value: Any, /, **fields: Any) -> Any:
        """Let handlers replace a value; epoch and step are filled in where the signal has them.

        `loader_opened` and `batch_loaded` are for loops by steps, which load their data themselves:
        in the body of `run.batches` they are a ValueError, as `emit` has it.
        """
        spans = self._use()
        check_not_own(signal, in_batches=isinstance(spans.passing(), Batches) and spans.is_in_body)
        self._fill_in(signal, fields)
        return spans.emitter.transform(signal, value, **fields)

    def _use(self) -> Spans:
        spans = self._spans
        if not spans.is_under_way:
            spans.start()
        spans.close_left()
        return spans

    def _fill_in(self, signal: Any, fields: dict[str, Any]) -> None:
        declaration = self.bus.signal(signal).declaration
        for name, count in (("epoch", self.epoch), ("step", self.step)):
            if declaration is None or name in declaration.fields:
                fields.setdefault(name, count)

    # -- where it is, and what became of it

    @property
    def name(self) -> str:
        """The label under which it emits."""
        return self._name or "train"

    @property
    def run_id(self) -> str | None:
        """What tells this run from all others; None before it is opened, unless it was given."""
        given: str | None = self._context["run_id"]
        return given if self._span is None else self._span.spans.emitter.run_id

    @property
    def epoch(self) -> int:
        """The epoch under way, or the last one that was; 0 before the first."""
        return self._counts.epoch

    @property
    def step(self) -> int:
        """The optimizer step under way, or the last one finished; 0 before the first."""
        return self._counts.steps_done if self._span is None else self._span.spans.step

    @property
    def metrics(self) -> Metrics:
        """The last value of each metric; reading one waits for the device."""
        return Metrics({} if self._span is None else dict(self._span.spans.last))

    @property
    def outcome(self) -> str | None:
        """How it ended: "completed", "stopped" or "failed"; None until it is over."""
        return None if self._span is None else self._span.outcome

    @property
    def stop(self) -> Stop | None:
        """The `Stop` that is pending or that ended the run: `.reason`, `.by`."""
        return None if self._span is None else self._span.stop

    # -- opening and closing

    def __enter__(self) -> Self:
        if self._span is not None:
            raise RuntimeError("a Run is opened once; make another one")
        span = RunSpan(self.bus, self._name, self._context, self._counts, self._ranks)
        self._span = span
        span.spans.schedules, span.spans.frozen = Schedules(self._parts), Frozen(self._parts)
        span.spans.redone = Redone(self._extra)
        span.open(self._parts)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._span is not None
        if error is None:
            self._span.spans.hints.no_backward()
            self._span.finish()
        else:
            self._span.fail(error)

    @property
    def _spans(self) -> Spans:
        if self._span is None:
            raise RuntimeError("open the Run first: `with Run(bus) as run:`")
        return self._span.spans

    def __reduce__(self) -> tuple[Any, ...]:
        return _elsewhere, (self.bus, self._name, self._span is not None)

    def __repr__(self) -> str:
        where = f"epoch {self.epoch}, step {self.step}"
        return f"<Run {self.name!r}: {where}, {self.outcome or 'not over'}>"


def _elsewhere(bus: EventBus, name: str | None, is_open: bool) -> Run:
    """Return what a Run unpickles to: its bus is inert there, and so is what is open on it."""
    run = Run(bus, name=name, ranks="alone")
    if is_open:
        run._span = RunSpan(bus, name, {}, run._counts)
        run._span.silence()
    return run


def _check_loader(call: str, loader: object) -> None:
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise TypeError(
            f"run.{call} takes a loader, or anything else to iterate over; got {loader!r}"
        )


def _checked_count(what: str, count: int, least: int = 0) -> int:
    if not isinstance(count, int) or count < least:
        raise ValueError(f"{what} must be an int of at least {least}; got {count!r}")
    return count
