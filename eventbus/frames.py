"""Which emission this code is inside of: read off the stack, so that emitting costs nothing for it.

A handler may emit, and its emission then carries on the run, the epoch and the step. To note each
emission in a thread-local would cost every one of them; instead `bus.underway` says cheaply that
some thread is inside one, and only then the stack is walked. It knows the threads apart by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any

from eventbus.event import Event

if TYPE_CHECKING:
    from eventbus.answers import Answers
    from eventbus.bus import EventBus
    from eventbus.port import Port

__all__ = [
    "MARK",
    "SENT",
    "Underway",
    "interpreters",
    "lasting",
    "retire",
    "sent",
    "surrounding",
]

MARK = "_eb_port"
"""The global by which the frame of a compiled function is known; its value is the port."""

SENT = "_eb_fields"
"""The parameter of a compiled function that takes all fields as one dict."""

interpreters: set[CodeType] = set()
"""The functions of `dispatch` whose local `event` is the emission under way."""


def sent(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that were sent: `...` stands for one that was not."""
    return {name: value for name, value in fields.items() if value is not ...}


class Underway:
    """What is being emitted on one bus, in any thread.

    Attributes
    ----------
    busy : bool or list
        True while a compiled function is at it. There is one at a time: whoever finds this true,
        another thread or an emission inside that one, interprets. Nothing is called between the
        look and the setting of it, so under the GIL no thread comes in between; without a GIL
        nothing is compiled (`compiled.can_compile`). Else it is `interpreted` itself: so one look
        tells both, and a compiled function that ends puts back what holds by then.
    interpreted : list
        One entry for each emission that is interpreted; to append and to pop is atomic.
    """

    __slots__ = ("busy", "interpreted")

    def __init__(self) -> None:
        self.interpreted: list[None] = []
        self.busy: bool | list[None] = self.interpreted

    def __bool__(self) -> bool:
        return bool(self.busy or self.interpreted)


def surrounding(bus: EventBus, frame: FrameType | None) -> Event | None:
    """Return the innermost emission of this bus that `frame` is inside of, if any."""
    if not bus.underway:
        return None
    while frame is not None:
        event = _event_in(frame)
        if event is not None and event.emitter.bus is bus:
            return event
        frame = frame.f_back
    return None


def retire(emit: FunctionType, port: Port[...]) -> None:
    """Have a compiled function emit through its port, now that handlers are others.

    Somebody may have kept it: `emit = signal.emit`. Where it is running it goes on as it is.
    """
    emit.__globals__["_eb_again"] = _method(port)
    emit.__code__ = _retired.__code__


def lasting(target: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method that a compiled function stands for; anything else as it is."""
    port = target.__globals__.get(MARK) if isinstance(target, FunctionType) else None
    return target if port is None else _method(port)


def _method(port: Port[...]) -> Callable[..., Any]:
    emit: Callable[..., Any] = type(port).emit.__get__(port)
    return emit


def _retired(*args: Any, **fields: Any) -> Answers:
    answers: Answers = _eb_again(*args, **fields)  # type: ignore[name-defined]  # noqa: F821 - of the function whose code this becomes
    return answers


def _event_in(frame: FrameType) -> Event | None:
    if frame.f_code is _retired.__code__:
        return None
    if frame.f_code in interpreters:
        event: Event = frame.f_locals["event"]
        return event
    port = frame.f_globals.get(MARK)
    if port is None:
        return None
    values = frame.f_locals
    fields = values.get(SENT)
    if fields is None:  # declared anew meanwhile, it may have fields that the function has not
        declared = port.signal.declaration.fields
        fields = sent({name: values[name] for name in declared if name in values})
    return Event(port.signal, port.emitter, fields)
