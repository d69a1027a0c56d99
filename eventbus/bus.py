"""The bus: where loops emit and handlers subscribe."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from eventbus.declaration import Declaration, signal
from eventbus.describe import describe
from eventbus.emitter import Emitter
from eventbus.emitting import LoopsSide
from eventbus.event_signal import EventSignal
from eventbus.failures import Failures
from eventbus.frames import Underway
from eventbus.housekeeping import Housekeeping
from eventbus.inbox import Inbox
from eventbus.inert import inert_bus, silence_in_children
from eventbus.open_runs import OpenRuns
from eventbus.registry import Registry
from eventbus.state import RestoredState
from eventbus.subscribing import HandlersSide
from eventbus.subscription import Subscription
from eventbus.timing import Profile

__all__ = ["EventBus"]

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")


class EventBus(HandlersSide, LoopsSide):
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
        self.runs = OpenRuns()
        self.root = Emitter(self)
        self.root.pending.is_run = False
        self._settled = self.root.settled
        self._housekeeping = Housekeeping(self)
        silence_in_children(self)

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
        return self.runs.emitters

    def mark_open(self, emitter: Emitter) -> None:
        """Note that a run is under way; called before `run_opened` is dispatched."""
        if emitter is not self.root:
            self.runs.add(emitter)

    def mark_closed(self, emitter: Emitter) -> None:
        """Note that a run has ended; called after `run_closed` was dispatched."""
        self.runs.remove(emitter)

    @property
    def restored_state(self) -> RestoredState:
        """What a checkpoint held: attached things take their part of it."""
        return self._housekeeping.restored

    def take_counts(self) -> None:
        """Give restored counts to filters that read them."""
        self._housekeeping.take_counts()

    def silence(self) -> None:
        """Call nobody any more: this is a copy in a forked child."""
        self.inert = True
        self.registry.renew_locks()
        self.runs.renew_lock()
