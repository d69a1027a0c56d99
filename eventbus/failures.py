"""What becomes of a handler's exception: a note and the loop, or the log and a count."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakKeyDictionary

from eventbus.log import log

if TYPE_CHECKING:
    from types import TracebackType

    from eventbus.emitter import Emitter
    from eventbus.event import Event
    from eventbus.subscription import Subscription

__all__ = ["Failures", "blame", "describe_error", "raise_all"]


IN_A_ROW = 3
"""So many failures in a row switch an isolated handler off."""


def blame(error: Exception, label: str, event: Event) -> Exception:
    """Note on an exception whose it is and where.

    A `StopIteration` would pass for the end of the data in any loop written as an iterator, so it
    becomes a `RuntimeError`, as it does when it leaks out of a generator (PEP 479).
    """
    if isinstance(error, StopIteration | StopAsyncIteration):
        wrapped = RuntimeError(f"handler {label!r} raised {type(error).__name__}")
        wrapped.__cause__ = error
        error = wrapped
    note = f"in handler {label!r}, {event.where()}"
    if note not in getattr(error, "__notes__", ()):
        with suppress(Exception):  # a frozen one takes no note
            error.add_note(note)
    return error.with_traceback(_from_the_handler(error.__traceback__))


def _from_the_handler(traceback: TracebackType | None) -> TracebackType | None:
    # The frames of the bus on the way to the handler say nothing; those of the emission follow.
    at = traceback
    while at is not None and at.tb_frame.f_globals.get("__package__") == __package__:
        at = at.tb_next
    return at or traceback


def raise_all(errors: list[Exception], event: Event) -> NoReturn:
    """Raise the one error as itself, several (on closing) as a group; `errors` is emptied."""
    error = errors[0]
    if len(errors) > 1:
        error = ExceptionGroup(f"several handlers failed on signal {event.name!r}", tuple(errors))
    errors.clear()  # else frames and exceptions keep each other, and the `loss` in them, alive
    try:
        raise error
    finally:
        del error


class Failures:
    """The failures of isolated handlers on one bus: logged once, counted, told, summed up."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._logged: WeakKeyDictionary[Subscription, set[type]] = WeakKeyDictionary()

    def isolate(
        self, subscription: Subscription, error: Exception, event: Event, emitter: Emitter
    ) -> None:
        """Keep a failure on `event` from the loop; `emitter` tells of it."""
        label = subscription.label
        self._counts[label] += 1
        self._log_first(subscription, error, event)
        _switch_off(subscription)  # first: who is told may raise
        try:
            self._tell(label, error, event, emitter)
        finally:
            error.with_traceback(None)  # its frames would keep the batch alive

    def _log_first(self, subscription: Subscription, error: Exception, event: Event) -> None:
        logged = self._logged.setdefault(subscription, set())
        if type(error) in logged:
            return
        logged.add(type(error))
        label = subscription.label
        log().error("handler %r failed, training goes on: %s", label, event.where(), exc_info=error)

    def _tell(self, label: str, error: Exception, event: Event, emitter: Emitter) -> None:
        at: Event | None = event
        while at is not None:
            if at.name == "handler_failed":
                return  # a failing listener to failures is not told of itself
            at = at.outer
        place = {name: event._fields[name] for name in ("epoch", "step") if name in event._fields}
        emitter.emit("handler_failed", handler=label, signal=event.name, exception=error, **place)

    def sum_up(self) -> None:
        """Log how often each failed since the last time."""
        counts, self._counts = self._counts, Counter()
        self._logged.clear()
        if counts:
            text = ", ".join(f"{label} ({count})" for label, count in counts.items())
            log().warning("handlers that failed while training went on: %s", text)


def _switch_off(subscription: Subscription) -> None:
    if subscription.failures_in_a_row < IN_A_ROW or subscription.switched_off:
        return
    subscription.switched_off = True
    subscription.changed()
    text = "handler %r failed %d times in a row: switched off for %s"
    log().warning(text, subscription.label, IN_A_ROW, subscription.heard)


def describe_error(error: Any) -> str:
    """Return `Type: text`, also where the exception's own `__str__` raises or says nothing."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception's own __str__ may raise anything
        text = "<its __str__ raises>"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
