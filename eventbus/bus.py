"""The bus: where loops emit and handlers subscribe."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import MethodType
from typing import Any, ParamSpec, TypeVar, overload

from eventbus.answers import Answers, Request
from eventbus.attachment import Attachment
from eventbus.background import Background
from eventbus.declaration import Declaration, signal
from eventbus.describe import describe
from eventbus.emitter import Emitter, of_the_call
from eventbus.errors import AttachError
from eventbus.event_signal import EventSignal
from eventbus.failures import Failures
from eventbus.frames import Underway, surrounding
from eventbus.housekeeping import Housekeeping
from eventbus.inbox import Inbox, Runs
from eventbus.inert import inert_bus, silence_in_children
from eventbus.naming import check_own_name, is_same, label_of, name_of
from eventbus.registry import Registry
from eventbus.state import RestoredState
from eventbus.subscription import OnError, Options, Subscription
from eventbus.timing import Profile

__all__ = ["EventBus"]

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")

log = logging.getLogger("eventbus")


class EventBus:
    """Carries named signals from training loops to handlers, and their answers back.

    Parameters
    ----------
    strict
        Know only declared signals, and let every handler's failure reach the loop.
    monotonic
        The clock that `at_most_every` reads, in seconds.

    Examples
    --------
    >>> from eventbus import EventBus, Stop, every
    >>> bus = EventBus()
    >>> @bus.on("batch_finished", when=every(100))
    ... def log_loss(step, loss): print(f"step {step}: {loss:.2f}")
    >>> @bus.on("validation_done")
    ... def good_enough(metrics):
    ...     if metrics["val_accuracy"] > 0.99: return Stop("accuracy is above 0.99")
    >>> loop = bus.bind(sender="train")
    >>> _ = loop.emit("batch_finished", epoch=1, step=100, loss=0.25)
    step 100: 0.25
    >>> measured = {"val_accuracy": 0.995}
    >>> answers = loop.emit("validation_done", name="val", round=1, epoch=1, metrics=measured)
    >>> answers.stop.reason, answers.stop.by
    ('accuracy is above 0.99', 'good_enough')
    """

    def __init__(
        self, *, strict: bool = False, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.strict = strict
        self.monotonic = monotonic
        self.inert = False
        self.timing: Profile | None = None
        self.inbox = Inbox()
        self.failures = Failures()
        self.underway = Underway()
        self.registry = Registry(self)
        self._open_runs: tuple[Emitter, ...] = ()
        self.root = Emitter(self)
        self.root.pending.is_run = False
        self._settled = self.root.settled
        self._housekeeping = Housekeeping(self)
        silence_in_children(self)

    # -- for handlers

    def on(
        self,
        *signals: str | Declaration[...],
        when: Any = None,
        priority: int = 0,
        sender: str | None = None,
        name: str | None = None,
        on_error: OnError = "raise",
        background: Background | bool | None = None,
    ) -> Callable[[F], F]:
        """Subscribe the decorated callable, which is returned unchanged.

        Parameters
        ----------
        signals
            Names or declarations; or a pattern, `"validation_*"` or `"*"`, which covers signals
            declared later too, but never `handler_failed` and `state_*`.
        when
            A filter, or a callable that names fields. None: always due.
        priority
            A higher number runs first; equal ones in the order they were subscribed. See
            `Priority`.
        sender
            Hear this sender alone.
        name
            For messages and tables; else the function's.
        on_error
            "raise" lets a failure reach the loop, "isolate" logs and counts it.
        background
            True, or a `Background` with a queue of another size: call it on a thread of its own,
            which the loop does not wait for. It cannot name the model or the optimizer.

        Raises
        ------
        EventBusError
            An unknown signal or field, an `async def`, a filter that names a wrong field.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.on("epoch_started", "epoch_finished", sender="train")
        ... def show(event): print(event.name)
        >>> _ = bus.bind(sender="train").emit("epoch_started", epoch=1, step=0)
        epoch_started
        >>> _ = bus.bind(sender="generator").emit("epoch_started", epoch=1, step=0)
        """
        options = Options.checked(when, priority, sender, on_error, background)
        return self._decorator(signals, name, options)

    def once(
        self,
        *signals: str | Declaration[...],
        when: Any = None,
        priority: int = 0,
        sender: str | None = None,
        name: str | None = None,
        on_error: OnError = "raise",
        background: Background | bool | None = None,
    ) -> Callable[[F], F]:
        """Subscribe as `on` does, for one call.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.once("batch_finished")
        ... def first(step): print("first step:", step)
        >>> for step in (1, 2): _ = bus.emit("batch_finished", epoch=1, step=step)
        first step: 1
        """
        options = Options.checked(when, priority, sender, on_error, background, once=True)
        return self._decorator(signals, name, options)

    def _decorator(
        self, signals: tuple[Any, ...], name: str | None, options: Options
    ) -> Callable[[F], F]:
        names = self._names(signals)
        check_own_name(name)

        def subscribe(handler: F) -> F:
            self._replace(handler)
            own = name_of(handler)
            labelled = options
            if name is None and isinstance(handler, MethodType):
                labelled = replace(options, label=f"{own}.{label_of(handler)}")
            self.registry.subscribe(handler, names, name or own, labelled)
            return handler

        return subscribe

    def _names(self, signals: tuple[Any, ...]) -> tuple[str, ...]:
        if not signals:
            raise TypeError('name the signals: @bus.on("batch_finished")')
        for each in signals:
            if not isinstance(each, str | Declaration | EventSignal) or not each:
                raise TypeError(f'name the signals: @bus.on("batch_finished"); got {each!r}')
        return tuple(s if isinstance(s, str) else self.signal(s).name for s in signals)

    def _replace(self, handler: Any) -> None:
        for name in self.registry.replace_redefined(handler):
            log.warning("handler %r was defined again: the new one replaces it", name)

    def attach(
        self,
        thing: Any,
        *,
        when: Any = None,
        priority: int | None = None,
        sender: str | None = None,
        name: str | None = None,
        on_error: OnError | None = None,
        background: Background | bool | None = None,
    ) -> Attachment:
        """Subscribe every mark that an object, a module or a function has; see `handles`.

        The keywords override the marks; `when` leaves those on `run_*` alone, so that a handler
        still opens, resumes and closes. What has `state_dict` and `load_state_dict` takes part in
        checkpoints under its name: the class's, unless `name` is given.

        Raises
        ------
        AttachError
            Attached already, nothing to attach, or the state of another has that name.

        Examples
        --------
        >>> from eventbus import EventBus, handles
        >>> class Greeter:
        ...     @handles("run_started")
        ...     def greet(self, run): print("hello", run)
        >>> bus = EventBus()
        >>> handle = bus.attach(Greeter())
        >>> _ = bus.bind(sender="digits").emit("run_started")
        hello digits
        >>> handle.detach()
        """
        overrides = {
            "when": when,
            "priority": priority,
            "sender": sender,
            "on_error": on_error,
            "background": background,
        }
        check_own_name(name)
        self._replace(thing)
        return self.registry.attach(thing, name, overrides)

    def detach(self, thing: Any) -> None:
        """End every subscription of a function or an object.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.on("epoch_finished")
        ... def report(epoch): print(epoch)
        >>> bus.detach(report)
        >>> _ = bus.emit("epoch_finished", epoch=1, step=10)
        """
        attachments = [
            a for a in self.registry.attachments if is_same(a.thing, thing) or a is thing
        ]
        subscriptions = [s for s in self.subscriptions if is_same(s.handler, thing) or s is thing]
        if not attachments and not subscriptions:
            raise AttachError(f"{thing!r} is not attached to this bus")
        for attachment in attachments:
            attachment.detach()
        for subscription in subscriptions:
            subscription.detach()

    # -- for loops

    def bind(
        self,
        *,
        sender: str | None = None,
        parent: Emitter | None = None,
        **context: Any,
    ) -> Emitter:
        """Make an emitter: a label, and a run's context, which rides on each of its signals.

        Parameters
        ----------
        sender
            The label; a non-empty string.
        parent
            The emitter of the run that this one is inside of: it then reaches only subscriptions
            with this `sender=`, and the parent's `Stop` is pending here too.
        context
            `model`, `optimizer`, `scheduler`, `models`, `optimizers`, `config`, `run`, `run_id`.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.on("epoch_finished")
        ... def save(epoch, model): print("saving", model)
        >>> loop = bus.bind(sender="train", model="the model")
        >>> _ = loop.emit("epoch_finished", epoch=1, step=10)
        saving the model
        """
        given = {name: value for name, value in context.items() if value is not None}
        return Emitter(self, sender, given, parent)

    @overload
    def emit(self, signal: Declaration[P], /, *args: P.args, **fields: P.kwargs) -> Answers: ...
    @overload
    def emit(self, signal: str | EventSignal[...], /, **fields: Any) -> Answers: ...
    def emit(self, signal: Any, /, **fields: Any) -> Answers:  # type: ignore[misc]  # *args cost
        """Emit from nowhere in particular; inside a handler, from where its event came.

        `sender=` labels this emission alone. Context may be given like fields.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.on("batch_finished")
        ... def measure(step, bus): bus.emit("metrics_measured", metrics={"norm": 0.5})
        >>> @bus.on("metrics_measured")
        ... def show(step, metrics): print(step, metrics)
        >>> _ = bus.emit("batch_finished", epoch=1, step=7)
        7 {'norm': 0.5}
        """
        emit = self._settled.get(signal)
        if emit is not None:
            try:
                return emit(**fields)
            except TypeError as error:  # `sender`, context, or a slip
                if not of_the_call(error):
                    raise
        return self._emitter(fields).emit_slowly(signal, fields)

    def transform(self, signal: Any, value: Any, /, **fields: Any) -> Any:
        """Let handlers replace a value; return what they made of it.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.on("batch_loaded")
        ... def double(batch): return [2 * x for x in batch]
        >>> bus.transform("batch_loaded", [1, 2], epoch=1, step=1, batch_index=1)
        [2, 4]
        """
        return self._emitter(fields).transform(signal, value, **fields)

    def answer(self, answer: Request, *, runs: Runs = "current", by: str = "bus.answer") -> None:
        """Give an answer from anywhere: any thread, an OS signal handler.

        It is pending from the next emission on, in the runs that are there by now; where none has
        heard it, in the next one. `runs="all"` ends later runs on the bus too.

        Examples
        --------
        >>> from eventbus import EventBus, Stop
        >>> bus = EventBus()
        >>> loop = bus.bind(sender="train")
        >>> bus.answer(Stop("SIGTERM", exit_code=143))
        >>> loop.emit("batch_finished", epoch=1, step=1).stop.reason
        'SIGTERM'
        """
        if not isinstance(answer, Request):
            raise TypeError(f"bus.answer takes a Stop, StopEpoch or SkipBatch, got {answer!r}")
        if runs not in ("current", "all"):
            raise ValueError(f'runs is "current" or "all", got {runs!r}')
        if not self.inert:
            self.inbox.give(answer.signed(by), runs)

    # -- signals

    @overload
    def signal(self, signal: Declaration[P], /) -> EventSignal[P]: ...
    @overload
    def signal(self, signal: str | EventSignal[...], /) -> EventSignal[...]: ...
    def signal(self, signal: Any, /) -> EventSignal[...]:
        """Return a signal of this bus, a `blinker.NamedSignal`, by its name or declaration.

        Examples
        --------
        >>> import blinker
        >>> from eventbus import EventBus
        >>> isinstance(EventBus().signal("epoch_finished"), blinker.NamedSignal)
        True
        """
        return self.registry.signal(signal)

    @overload
    def declare(self, stub: Callable[P, None] | Declaration[P], /) -> Declaration[P]: ...
    @overload
    def declare(
        self, stub: None = None, /, *, clock: str | None = None, value: str | None = None
    ) -> Callable[[Callable[P, None]], Declaration[P]]: ...
    def declare(
        self, stub: Any = None, /, *, clock: str | None = None, value: str | None = None
    ) -> Any:
        """Declare a signal of your own by a stub, as `eventbus.signal` does, on this bus.

        Raises
        ------
        SignalError
            It is declared already.
        FieldError
            A field's name is taken, or a subscribed handler asks for a field that is not declared.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> bus = EventBus()
        >>> @bus.declare(clock="step")
        ... def sample_drawn(*, step: int, text: str) -> None:
        ...     '''A sample was drawn.'''
        >>> @bus.on(sample_drawn)
        ... def show(text): print(text)
        >>> _ = bus.emit(sample_drawn, step=1, text="to be")
        to be
        """

        def put(stub: Callable[..., None]) -> Declaration[...]:
            made = stub if isinstance(stub, Declaration) else signal(clock=clock, value=value)(stub)
            self.registry.declare(made)
            return made

        return put if stub is None else put(stub)

    # -- seeing it

    def describe(self, *, never_ran: bool = False) -> str:
        """Return a table: signals, handlers, priorities, filters; calls and time while profiling.

        Parameters
        ----------
        never_ran
            Show only the subscriptions that were never called.

        Examples
        --------
        >>> from eventbus import EventBus, every
        >>> bus = EventBus()
        >>> @bus.on("epoch_finished", when=every(10))
        ... def save(epoch): pass
        >>> print(bus.describe())
        epoch_finished
             0  save  every(10)
        """
        return describe(self, never_ran=never_ran)

    def profile(self) -> Profile:
        """Measure calls and time of each handler until `.stop()`, or in a `with` block.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> with EventBus().profile() as profile: pass
        >>> profile.rows
        []
        """
        self.timing = Profile(self)
        self.registry.changed()
        return self.timing

    def __str__(self) -> str:
        return self.describe()

    def __repr__(self) -> str:
        count = len(self.subscriptions)
        return f"<EventBus: {count} subscription{'' if count == 1 else 's'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return inert_bus, ()

    # -- for the parts of the bus

    @property
    def signals(self) -> tuple[EventSignal[...], ...]:
        """The signals that somebody has named so far."""
        return self.registry.signals

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """All subscriptions in the order in which they were made, but the bus's own."""
        return self.registry.subscriptions

    @property
    def open_runs(self) -> tuple[Emitter, ...]:
        """The emitters whose run is opened and not closed yet, the outermost first."""
        return self._open_runs

    def mark_open(self, emitter: Emitter) -> None:
        """Note that a run is under way; called before `run_opened` is dispatched."""
        if emitter is not self.root and emitter not in self._open_runs:
            self._open_runs = (*self._open_runs, emitter)

    def mark_closed(self, emitter: Emitter) -> None:
        """Note that a run has ended; called after `run_closed` was dispatched."""
        self._open_runs = tuple(held for held in self._open_runs if held is not emitter)

    @property
    def restored_state(self) -> RestoredState:
        """What a checkpoint held: attached things take their part of it."""
        return self._housekeeping.restored

    def take_counts(self) -> None:
        """Give restored counts to filters that read them."""
        self._housekeeping.take_counts()

    def here(self) -> Emitter:
        """Return the emitter of the emission that this thread is inside of, else the bus's own."""
        event = surrounding(self, sys._getframe(1))
        return self.root if event is None else event.emitter

    def _emitter(self, fields: dict[str, Any]) -> Emitter:
        emitter = self.here()
        return emitter.labelled(fields.pop("sender")) if "sender" in fields else emitter

    def silence(self) -> None:
        """Call nobody any more: this is a copy in a forked child."""
        self.inert = True
        self.registry.renew_locks()
