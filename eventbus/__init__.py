"""An event bus for training instrumentation: loops emit named signals, handlers subscribe."""

from __future__ import annotations

from eventbus.answers import Answer, Answers, Restored, SkipBatch, State, Stop, StopEpoch
from eventbus.attachment import Attachment
from eventbus.background import Background
from eventbus.bus import EventBus
from eventbus.declaration import Declaration, Field, signal
from eventbus.emitter import Emitter
from eventbus.errors import AttachError, EventBusError, FieldError, HandlerError, SignalError
from eventbus.event import Event
from eventbus.event_signal import EventSignal
from eventbus.filters import Filter, at, at_most_every, every, from_, on_rank, until
from eventbus.marks import handles
from eventbus.priority import Priority
from eventbus.state import RestoredState
from eventbus.subscription import Subscription

__all__ = [
    "Answer",
    "Answers",
    "AttachError",
    "Attachment",
    "Background",
    "Declaration",
    "Emitter",
    "Event",
    "EventBus",
    "EventBusError",
    "EventSignal",
    "Field",
    "FieldError",
    "Filter",
    "HandlerError",
    "Priority",
    "Restored",
    "RestoredState",
    "SignalError",
    "SkipBatch",
    "State",
    "Stop",
    "StopEpoch",
    "Subscription",
    "at",
    "at_most_every",
    "every",
    "from_",
    "handles",
    "on_rank",
    "signal",
    "until",
]
