"""What a handler asks for by name, and how it is called with just that."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from eventbus.declaration import CONTEXT, RESERVED, Declaration
from eventbus.errors import FieldError, HandlerError, did_you_mean, nearest
from eventbus.frames import lasting
from eventbus.marks import MarkedCall
from eventbus.wire import is_async

if TYPE_CHECKING:
    from eventbus.event import Event

NOT_DUE: Any = object()
"""What a receiver returns in place of a result where its handler was not called, or not yet."""

Call = Callable[["Event"], Any]
Getter = Callable[["Event"], Any]

REQUIRED: Any = inspect.Parameter.empty

_METRICS = ("_loss", "_accuracy", "_acc")
"""What names end with that are keys in `metrics`, not fields."""


class Want(NamedTuple):
    """One name that a callable asks for; `default` is `REQUIRED` where it has none."""

    name: str
    default: Any
    by_keyword: bool


class Wants(NamedTuple):
    """All that a callable asks for, and whether it takes `**fields` for the rest.

    `label` says whose they are in messages: `handler 'log_loss'`, `the filter of handler 'x'`.
    """

    target: Callable[..., Any]
    label: str
    handler: str
    each: tuple[Want, ...]
    takes_rest: bool


def read_wants(target: Callable[..., Any], label: str, handler: str) -> Wants:
    """Read the signature of a handler, or of the predicate in a handler's filter.

    Raises
    ------
    HandlerError
        It is not callable, it is async, or it has no signature to read.
    """
    target = lasting(target)  # `other.signal(...).emit` may be a handler, too
    if not callable(target):
        raise HandlerError(f"{label} is not callable: got {target!r}", handler=handler)
    if is_async(target) or _is_of_kind(inspect.isasyncgenfunction, target):
        raise HandlerError(
            f"{label} is async: the bus calls handlers on the loop's thread and awaits nothing; "
            "write a plain function",
            handler=handler,
        )
    called = target.target if isinstance(target, MarkedCall) else target
    # What `partial` was given is no default that the loop's fields go before.
    fixed = called.keywords if isinstance(called, functools.partial) else {}
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError) as error:
        message = f"{label} has no signature to read: wrap it in a function that names its fields"
        raise HandlerError(message, handler=handler) from error
    wants = tuple(
        Want(p.name, p.default, p.kind is p.KEYWORD_ONLY)
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in fixed
    )
    return Wants(called, label, handler, wants, any(p.kind is p.VAR_KEYWORD for p in parameters))


def _is_of_kind(kind: Callable[[Any], bool], target: Any) -> bool:
    return kind(target) or kind(getattr(target, "__call__", None))  # noqa: B004 - looked at, not called


def check_runs(wants: Wants, signal: str) -> None:
    """Refuse a generator function where nobody would iterate over what it makes.

    Raises
    ------
    HandlerError
        Its body would silently never run. As a transform it may make a new value.
    """
    if _is_of_kind(inspect.isgeneratorfunction, wants.target):
        raise HandlerError(
            f"{wants.label} yields, so on signal {signal!r} its body would never run: "
            "return what it has to say",
            handler=wants.handler,
            signal=signal,
        )


def check_wants(wants: Wants, declaration: Declaration[...], known: Iterable[str]) -> None:
    """Refuse a name that the signal does not carry.

    A parameter with a default may name a field of another signal (`known`), or something that is
    nowhere near a field, as in `lambda step, name=name: ...`.
    """
    offered = {*declaration.fields, *CONTEXT, *RESERVED}
    known = set(known)
    for want in wants.each:
        if want.name in offered:
            continue
        near = nearest(want.name, offered, cutoff=0.75)
        if want.default is REQUIRED or (near and want.name not in known):
            raise _unknown(wants, want.name, declaration)


def _unknown(wants: Wants, name: str, declaration: Declaration[...]) -> FieldError:
    hint = _instead_of(name, declaration)
    fields = ", ".join(declaration.fields) or "none"
    return FieldError(
        f"{wants.label} asks for {name!r}, which signal {declaration.name!r} does not carry{hint} "
        f"(its fields: {fields})",
        handler=wants.handler,
        signal=declaration.name,
        field=name,
    )


def _instead_of(name: str, declaration: Declaration[...]) -> str:
    if name == "self":
        return "; a method is attached with its object: bus.attach(instance)"
    if "metrics" in declaration.fields and f"_{name}".endswith(_METRICS):
        return f"; a metric is read as metrics[{name!r}]"
    return did_you_mean(name, (*declaration.fields, *CONTEXT, *RESERVED))


def make_call(wants: Wants, declaration: Declaration[...] | None) -> Call:
    """Make the function that calls the target with what it asks for of an event."""
    if wants.each and not wants.takes_rest and _only_fields(wants, declaration):
        return _call_with_fields(wants)
    return _call_with_anything(wants, declaration)


def _only_fields(wants: Wants, declaration: Declaration[...] | None) -> bool:
    if declaration is None:
        return False
    return all(want.name in declaration.fields and not want.by_keyword for want in wants.each)


def _call_with_fields(wants: Wants) -> Call:
    # By far the most common handler: names declared fields only. One C call fetches them all.
    target, names = wants.target, [want.name for want in wants.each]
    slowly = _call_with_anything(wants, None)
    if len(names) == 1:
        (name,) = names

        def call(event: Event) -> Any:
            fields = event._fields
            return target(fields[name]) if name in fields else slowly(event)

        return call
    pick = itemgetter(*names)

    def call_with_several(event: Event) -> Any:
        try:
            values = pick(event._fields)
        except KeyError:
            return slowly(event)
        return target(*values)

    return call_with_several


def _call_with_anything(wants: Wants, declaration: Declaration[...] | None) -> Call:
    target = wants.target
    by_position = [_getter(want, wants, declaration) for want in wants.each if not want.by_keyword]
    by_keyword = [
        (want.name, _getter(want, wants, declaration)) for want in wants.each if want.by_keyword
    ]
    named = frozenset(want.name for want in wants.each)

    def call(event: Event) -> Any:
        keywords = {name: get(event) for name, get in by_keyword}
        if wants.takes_rest:
            rest = {k: v for k, v in event._fields.items() if k not in named}
            keywords = {**rest, **keywords}
        return target(*[get(event) for get in by_position], **keywords)

    return call


def _getter(want: Want, wants: Wants, declaration: Declaration[...] | None) -> Getter:
    if want.name in RESERVED:
        return _RESERVED_GETTERS[want.name]
    if want.name in CONTEXT:
        return _context_getter(want, wants)
    return _field_getter(want, wants)


_RESERVED_GETTERS: dict[str, Getter] = {
    "event": lambda event: event,
    "sender": lambda event: event.sender,
    "bus": lambda event: event.bus,
}


def _field_getter(want: Want, wants: Wants) -> Getter:
    def get(event: Event) -> Any:
        value = event._fields.get(want.name, want.default)
        if value is REQUIRED:
            sent = ", ".join(event._fields) or "nothing"
            raise FieldError(
                f"{wants.label} asks for {want.name!r}, which {event.sender or 'the loop'!r} did "
                f"not send with signal {event.name!r} (sent: {sent})",
                handler=wants.handler,
                signal=event.name,
                field=want.name,
            )
        return value

    return get


def _context_getter(want: Want, wants: Wants) -> Getter:
    def get(event: Event) -> Any:
        if want.name in event._fields:  # an undeclared signal may send what it likes
            return event._fields[want.name]
        if want.default is not REQUIRED:
            return event.from_context(want.name, want.default)
        try:
            return event.from_context(want.name)
        except FieldError as error:
            raise FieldError(
                f"{wants.label} asks for {want.name!r} on signal {event.name!r}: {error}",
                handler=wants.handler,
                signal=event.name,
                field=want.name,
            ) from None

    return get
