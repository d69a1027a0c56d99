"""Who is called when a signal is emitted by a given emitter: an immutable plan, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blinker._utilities import make_id

from eventbus.errors import HandlerError
from eventbus.subscription import Receiver
from eventbus.wire import Entry

if TYPE_CHECKING:
    from eventbus.emitter import Emitter
    from eventbus.event import Event
    from eventbus.event_signal import EventSignal

__all__ = ["EMPTY", "Plan", "make_plan"]


class PlannedCall:
    """One handler in a plan.

    Attributes
    ----------
    take : callable
        Takes the event; returns what the handler returned, `NOT_DUE` if it was not due.
    count : callable or None
        Takes the event; numbers the emission, where a filter reads the number.
    receiver : Receiver or None
        None for a plain blinker receiver.
    isolated, may_replace : bool
    """

    __slots__ = ("by", "count", "isolated", "label", "may_replace", "receiver", "take")

    def __init__(self, receiver: Receiver) -> None:
        subscription = receiver.subscription
        timed = subscription.bus.timing
        self.receiver: Receiver | None = receiver
        self.take: Callable[[Event], Any] = receiver.take if timed is None else timed.wrap(receiver)
        if subscription.worker is not None:
            self.take = subscription.worker.watched(self.take)
        self.count = receiver.count if receiver.tally is not None else None
        self.isolated = subscription.isolated
        self.may_replace = not self.isolated
        self.by = subscription.name
        self.label = subscription.label

    def succeeded(self) -> None:
        """Note that an isolated handler did its work: a row of failures ends."""
        assert self.receiver is not None, "plain receivers are not isolated"
        self.receiver.subscription.failures_in_a_row = 0


class PlainCall(PlannedCall):
    """A plain blinker receiver in a plan: called with `(sender, **fields)`; raises."""

    __slots__ = ("entry",)

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.receiver = None
        self.take = self.send
        self.count = None
        self.isolated = False
        self.may_replace = False
        strong = entry.receiver() if entry.is_weak else entry.receiver
        self.by = self.label = getattr(strong, "__qualname__", type(strong).__name__)

    def send(self, event: Event) -> Any:
        """Call it as blinker would; nothing where it is gone."""
        receiver, is_weak, is_async = self.entry
        if is_async:
            raise HandlerError(f"receiver {self.label!r} is async: emit awaits nothing")
        strong = receiver() if is_weak else receiver
        return None if strong is None else strong(event.sender, **event._fields)


Plan = tuple[PlannedCall, ...]
EMPTY: Plan = ()


def make_plan(signal: EventSignal[...], emitter: Emitter) -> Plan:
    """Put together who hears `emitter` on `signal`."""
    if signal.is_muted:
        return EMPTY
    entries = signal.roster(emitter.sender)
    return tuple(_planned(entry) for entry in entries if _reaches(signal, entry, emitter))


def _planned(entry: Entry) -> PlannedCall:
    if isinstance(entry.receiver, Receiver):
        return PlannedCall(entry.receiver)
    return PlainCall(entry)


def _reaches(signal: EventSignal[...], entry: Entry, emitter: Emitter) -> bool:
    receiver = entry.receiver
    if isinstance(receiver, Receiver):
        subscription = receiver.subscription
        if subscription.switched_off:
            return False
        return (
            not emitter.inner or subscription.options.everywhere or subscription.sender is not None
        )
    if not emitter.inner:
        return True
    strong = receiver() if entry.is_weak else receiver
    return emitter.sender in signal._by_receiver.get(make_id(strong), ())
