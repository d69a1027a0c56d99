"""What a bus becomes in another process: one that can be used, and calls nobody.

A DataLoader worker gets a copy of whatever its dataset holds. A bus in there must neither hang (on
a lock that was held when the process forked) nor call handlers a second time.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from eventbus.log import log

if TYPE_CHECKING:
    from eventbus.attachment import Attachment
    from eventbus.bus import EventBus
    from eventbus.emitter import Emitter
    from eventbus.event_signal import EventSignal
    from eventbus.pending import Pending
    from eventbus.port import Port

__all__ = [
    "inert_bus",
    "inert_emitter",
    "inert_handle",
    "inert_pending",
    "inert_port",
    "inert_signal",
    "silence_in_children",
    "warn_if_inert",
]


class Silenced(Protocol):
    """What is of no use in a forked child: a bus, a run."""

    def silence(self) -> None:
        """Call nobody any more."""


_silenced: weakref.WeakSet[Silenced] = weakref.WeakSet()
_warned: weakref.WeakSet[EventBus] = weakref.WeakSet()
_hooks: list[Any] = []


def inert_bus() -> EventBus:
    """Return a bus that calls nobody: what a bus unpickles to."""
    from eventbus.bus import EventBus

    bus = EventBus()
    bus.inert = True
    return bus


def inert_emitter(sender: str | None) -> Emitter:
    """Return what an emitter unpickles to."""
    return inert_bus().bind(sender=sender)


def inert_pending() -> Pending:
    """Return what pending answers unpickle to: none."""
    return inert_emitter(None).pending


def inert_port(sender: str | None, signal: str) -> Port[...]:
    """Return what a port unpickles to."""
    return inert_emitter(sender).signal(signal)


def inert_signal(name: str) -> EventSignal[...]:
    """Return what a signal unpickles to."""
    return inert_bus().signal(name)


def inert_handle(name: str) -> Attachment:
    """Return what a handle on subscriptions unpickles to."""
    from eventbus.attachment import Attachment

    return Attachment(None, name)


def warn_if_inert(bus: EventBus) -> None:
    """Warn, once for each bus, where a run is opened or a handler subscribed in vain.

    A DataLoader's worker does neither: it emits, or holds a run that is open elsewhere.
    """
    if bus.inert and bus not in _warned:
        _warned.add(bus)
        log().warning(
            "this bus calls nobody, as it was made in another process or is a copy: make the bus, "
            "and attach to it, in the process that trains"
        )


def silence_in_children(held: Silenced) -> None:
    """Have the copy of a bus, or of a run, in a forked child call nobody."""
    _silenced.add(held)
    if not _hooks and hasattr(os, "register_at_fork"):
        _hooks.append(_silence_all)  # a hook cannot be taken back, so one serves them all
        os.register_at_fork(after_in_child=_silence_all)


def _silence_all() -> None:
    for held in list(_silenced):
        held.silence()
