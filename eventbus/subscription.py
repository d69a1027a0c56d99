"""A subscription: handler, priority and filter on one bus; and its receiver on each signal."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from blinker import ANY

from eventbus.background import Background, as_background, refuse_held
from eventbus.calling import NOT_DUE, Wants, check_runs, check_wants, make_call, read_wants
from eventbus.due import Filter, as_filter, bound
from eventbus.errors import FieldError
from eventbus.handle import Handle
from eventbus.handler_names import check_label
from eventbus.handover import packing
from eventbus.signal_names import covers
from eventbus.tally import Tally
from eventbus.worker import Worker

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.event import Event
    from eventbus.event_signal import EventSignal

__all__ = ["NOT_DUE", "OnError", "Options", "Receiver", "Subscription"]

OnError = Literal["raise", "isolate"]


class Options(NamedTuple):
    """How a handler is subscribed, checked."""

    when: Filter | None = None
    priority: int = 0
    sender: str | None = None
    on_error: OnError = "raise"
    background: Background | None = None
    once: bool = False
    everywhere: bool = False
    """The bus's own: reached by inner runs too, not shown."""
    label: str = ""
    """For messages and tables: the name and the method."""

    @classmethod
    def checked(
        cls,
        when: Any = None,
        priority: int = 0,
        sender: str | None = None,
        on_error: OnError = "raise",
        background: Any = None,
        *,
        once: bool = False,
        label: str = "",
    ) -> Options:
        """Refuse what makes no sense, with what to write instead."""
        if on_error not in ("raise", "isolate"):
            raise ValueError(f'on_error is "raise" or "isolate", got {on_error!r}')
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise TypeError(f"a priority is a whole number or a Priority, got {priority!r}")
        when = None if when is None else as_filter(when)
        off_thread = as_background(background)
        sender = check_label(sender)
        return cls(when, int(priority), sender, on_error, off_thread, once=once, label=label)


class Subscription(Handle):
    """A handle on one handler's place on a bus; ended by `detach` or a `with` block.

    Attributes
    ----------
    handler : callable
    name : str
        Who answers, and whose state it is: the function's or the class's name, unless given.
    label : str
        For messages and tables: the name and the method.
    when : Filter or None
    priority : int
    sender : str or None
        The only sender that it hears, where given.
    on_error : {"raise", "isolate"}
    switched_off : bool
        True after three failures in a row of an isolated handler.
    worker : Worker or None
        Calls it off the loop's thread, where it is in the background.

    Examples
    --------
    >>> from eventbus import EventBus, handles
    >>> @handles("epoch_finished")
    ... def report(epoch): print("epoch", epoch)
    >>> bus = EventBus()
    >>> with bus.attach(report):
    ...     _ = bus.emit("epoch_finished", epoch=1, step=10)
    epoch 1
    >>> _ = bus.emit("epoch_finished", epoch=2, step=20)
    """

    def __init__(
        self,
        bus: EventBus,
        handler: Callable[..., Any],
        name: str,
        options: Options,
        worker: Worker | None = None,
    ) -> None:
        self.bus = bus
        self.handler = handler
        self.name = name
        self.options = options
        self.label = options.label or name
        self.sequence = bus.registry.next_sequence()
        self.patterns: tuple[str, ...] = ()
        self.receivers: dict[str, Receiver] = {}
        self.switched_off = False
        self.failures_in_a_row = 0
        self.is_timed = False  # a filter asks when it was called last
        self.called_at: float | None = None
        self.wants = read_wants(handler, f"handler {self.label!r}", self.label)
        if options.background is not None:
            refuse_held(self.wants)
            worker = worker or Worker(options.background, self.label)
        self.worker = worker
        self._claim = threading.Lock()

    @property
    def when(self) -> Filter | None:
        """Its filter."""
        return self.options.when

    @property
    def priority(self) -> int:
        """A higher number runs first."""
        return self.options.priority

    @property
    def sender(self) -> str | None:
        """The only sender that it hears, where given."""
        return self.options.sender

    @property
    def isolated(self) -> bool:
        """Whether its failures are kept from the loop."""
        return self.options.on_error == "isolate" and not self.bus.strict

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of the signals that it hears."""
        return tuple(self.receivers)

    @property
    def heard(self) -> str:
        """What it hears, for messages: the patterns that it was given, else the signals."""
        return ", ".join(self.patterns or self.signals)

    def asked_for(self, signal: str) -> bool:
        """Tell whether it hears a signal by name, not by a pattern that covers all sorts."""
        return signal in self.receivers and not any(covers(one, signal) for one in self.patterns)

    @property
    def ran(self) -> bool:
        """Whether it was ever called."""
        return any(receiver.ran for receiver in self.receivers.values())

    @property
    def attached(self) -> bool:
        """Whether it still takes part."""
        return self.bus.registry.holds(self)

    def detach(self) -> None:
        """Take no more part, from the next emission on; once more does nothing."""
        self.bus.registry.end(self)

    def changed(self) -> None:
        """Have its signals decide anew who is called."""
        for receiver in list(self.receivers.values()):  # another thread may add one meanwhile
            receiver.signal.changed()

    def claim(self) -> bool:
        """Tell, once only and to one thread only, that a `once` handler may be called."""
        return self._claim.acquire(blocking=False)

    def __reduce__(self) -> tuple[Any, ...]:
        from eventbus.inert import inert_handle

        return inert_handle, (self.name,)

    def __repr__(self) -> str:
        return f"<Subscription {self.label!r} on {self.heard}>"


class Receiver:
    """A subscription's place on one signal: what blinker holds, and what a plan calls.

    It is also the site of the subscription's filter: state that a filter needs lives here.
    """

    def __init__(self, subscription: Subscription, signal: EventSignal[...]) -> None:
        self.subscription = subscription
        self.signal = signal
        self.monotonic = subscription.bus.monotonic
        self.tally: Tally | None = None  # only where a filter reads the number of emissions
        self.ran = False
        self.calls = 0  # while interpreted, as all are while they are profiled
        self.call = self.check()
        self.due = bound(subscription.when, self) if subscription.when is not None else None

    def plug(self) -> None:
        """Take part from the next emission on."""
        subscription = self.subscription
        subscription.receivers[self.signal.name] = self
        sender = ANY if subscription.sender is None else subscription.sender
        self.signal.connect(self, sender=sender, weak=False)

    def follow(self, other: Receiver) -> None:
        """Go on from what another one of the same subscription has counted."""
        self.ran, self.calls = other.ran, other.calls
        if self.tally is not None and other.tally is not None:
            self.tally = other.tally

    def check(self) -> Callable[[Event], Any]:
        """Hold what the handler asks for against the declaration, and make its call."""
        wants, worker = self.subscription.wants, self.subscription.worker
        may_replace = self.signal.value is not None and not self.subscription.isolated
        if worker is not None or not may_replace:  # else it may make the new value
            check_runs(wants, self.signal.name)
        if worker is None:
            return self._calling(wants)
        return worker.hand_over(self.subscription, self._calling(packing(wants)))

    def _calling(self, wants: Wants) -> Callable[[Event], Any]:
        declaration = self.signal.declaration
        if declaration is not None:
            check_wants(wants, declaration, self.subscription.bus.registry.known_fields())
        return make_call(wants, declaration)

    # -- what a filter may ask (due.Site)

    def clock(self) -> Callable[[Event], int]:
        """Read the signal's clock field; where it has none, count its emissions."""
        declaration = self.signal.declaration
        if declaration is None or declaration.clock is None:
            self.tally = Tally()
            return lambda event: event.numbers[self]
        return self._read_clock(declaration.clock)

    def _read_clock(self, clock: str) -> Callable[[Event], int]:
        def read(event: Event) -> int:
            try:
                value: int = event._fields[clock]
            except KeyError:
                raise FieldError(
                    f"the filter {self.subscription.when!r} of handler {self.subscription.label!r} "
                    f"reads {clock!r}, which {event.sender or 'the loop'!r} did not send with "
                    f"signal {event.name!r}",
                    handler=self.subscription.label,
                    signal=event.name,
                    field=clock,
                ) from None
            return value

        return read

    def predicate(self, target: Callable[..., Any]) -> Callable[[Event], Any]:
        """Call a predicate as a handler is called."""
        handler = self.subscription.label
        wants = read_wants(target, f"the filter of handler {handler!r}", handler)
        check_runs(wants, self.signal.name)
        return self._calling(wants)

    def since_called(self) -> Callable[[], float]:
        """Return what tells the seconds since the handler was called, on whichever signal."""
        self.subscription.is_timed = True
        return self._since_called

    def _since_called(self) -> float:
        called_at = self.subscription.called_at
        return math.inf if called_at is None else self.monotonic() - called_at

    # -- what a plan asks

    def take(self, event: Event) -> Any:
        """Call the handler, if it is due; else return `NOT_DUE`."""
        if self.due is not None and not self.due(event):
            return NOT_DUE
        subscription = self.subscription
        if subscription.options.once:
            if not subscription.claim():
                return NOT_DUE
            subscription.detach()
        self.ran = True
        self.calls += 1
        if subscription.is_timed:
            subscription.called_at = self.monotonic()
        return self.call(event)

    def count(self, event: Event) -> None:
        """Number an emission, for filters on a signal without a clock."""
        if self.tally is not None:
            event.numbers[self] = self.tally.draw()

    def __call__(self, sender: Any, **fields: Any) -> Any:
        """Take part in blinker's `send`: filters hold, answers are only returned."""
        event = self.signal.plain_event(sender, fields)
        self.count(event)
        result = self.take(event)
        return None if result is NOT_DUE else result

    def __repr__(self) -> str:
        return f"<receiver of {self.subscription.label!r}>"
