"""A function made for the handlers of one signal: the calls written out one after the other.

A loop over handlers, tests of filters and look-ups cost more than the handlers themselves. So for
a plan that has settled, source like this is written, compiled once, and called instead::

    def emit(_first=..., epoch=..., step=..., loss=...):      # by name; `...` was not sent
        if _underway.busy or _first is not ... or step is ... or loss is ...:
            return _slow({'epoch': epoch, 'step': step, 'loss': loss}, _first)
        _underway.busy = True
        try:
            r = _h0(step, loss)
            if r is not None: return _take_over(0, r, {...})
            if (step > 0 and not step % 100): ...  # every(100)
        except Exception as raised:
            _error = raised
        else:
            return _none if _pending.quiet else _settle({...})
        finally:
            _underway.busy = _interpreted
        return _failed(_error, {...})

`emit(name, **fields)` has its fields as one dict, so it calls a twin that takes them so. The twin
is made when it is first asked for, for the names that were sent until then. A transform has only
the twin: its value is one more field in the dict, and is read from there when all have run.

Each knows the happy path alone. An answer, a failure, a field that was not sent: all else is handed
over to `dispatch`, at the handler where it came up. So there is one place that says what happens,
and this one cannot say anything else.

Where many handlers wait for a count, `_window` holds the clocks at which none of them is due; the
bounds come from `Filter.next_due` and are sound, so a clock that jumps or restarts only leads to a
full look. The source is in `linecache`: tracebacks and debuggers show it.
"""

from __future__ import annotations

import functools
import itertools
import linecache
import sys
import weakref
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeAlias

from eventbus import dispatch
from eventbus.answers import Answers
from eventbus.event import Event
from eventbus.frames import MARK, sent
from eventbus.port import DECLINED
from eventbus.shown import DICTS, Shown
from eventbus.source import PREFIX, Writer
from eventbus.subscription import NOT_DUE

if TYPE_CHECKING:
    from eventbus.plan import Plan, PlannedCall
    from eventbus.port import Port, Transform

__all__ = ["ByName", "can_compile", "compile_emit", "compile_for"]

ByName: TypeAlias = Callable[[dict[str, Any]], "Answers | None"]
"""Emits the fields in a dict, or returns None: it was made for other ones."""

_numbers = itertools.count(1)

_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


def can_compile(port: Port[...], plan: Plan) -> bool:
    """Tell whether a function can be made for a plan, and says all that the interpreter would."""
    declaration = port.signal.declaration
    return (
        declaration is not None
        and (declaration.value is not None or not port.signal.begins)
        and port.signal.name != dispatch.CLOSING
        and not port.emitter.inner  # the stops of the outer run are looked up each time
        and port.emitter.bus.timing is None
        and _HAS_GIL
        and not any(name.startswith(PREFIX) for name in declaration.fields)
        and all(_is_settled(planned) for planned in plan)
    )


def _is_settled(planned: PlannedCall) -> bool:
    receiver = planned.receiver
    if receiver is None:
        return True
    if receiver.subscription.options.once or planned.count is not None:
        return False
    return receiver.ran or receiver.due is not None  # that it ran is noted by then


def compile_emit(port: Port[...], plan: Plan) -> Callable[..., Answers]:
    """Make the function for a plan, with a parameter for each field."""
    return _compiled(port, plan, Writer(port, plan))


def _compile_by_name(port: Port[...], plan: Plan, shape: tuple[str, ...]) -> ByName:
    """Make the function for emissions by name, which takes the fields as one dict.

    Parameters
    ----------
    shape
        The names of the fields that are sent, as a rule; it declines all others.
    """
    writer = Writer(port, plan, shape)
    return _compiled(port, plan, writer) if writer.fits else _decline


def _by_name_when_asked(port: Port[...], plan: Plan, shape: tuple[str, ...]) -> ByName:
    """Return what makes that function when it is called first; most signals are emitted one way."""

    def first(fields: dict[str, Any]) -> Answers | None:
        by_name = _compile_by_name(port, plan, shape)
        port.signal.install_by_name(port, plan, by_name)
        return by_name(fields)

    return first


def _compile_transform(port: Port[...], plan: Plan, shape: tuple[str, ...]) -> Transform:
    """Make the function for a transform, which is given by name alone."""
    emit, key = _compile_by_name(port, plan, shape), port.signal.value
    assert key is not None, "it is a transform"

    def transform(value: Any, fields: dict[str, Any]) -> Any:
        if key in fields:  # twice: the interpreter refuses it
            return DECLINED
        sent = {key: value, **fields}
        return DECLINED if emit(sent) is None else sent[key]

    return transform


def _decline(fields: dict[str, Any]) -> None:
    return None


def _compiled(port: Port[...], plan: Plan, writer: Writer) -> Callable[..., Answers]:
    source = writer.write()
    namespace = writer.names
    namespace.update(_shared_names(port, plan))
    namespace["_eb_failed"] = functools.partial(_failed, port, plan, writer.handler_lines)
    exec(_code(source, port.signal.name), namespace)
    emit: Callable[..., Answers] = namespace.pop("emit")  # left there, it would be a cycle
    emit.__qualname__ = f"{port.signal.name}.emit"  # Python names it when a field is misspelt
    return emit


@functools.lru_cache(maxsize=512)
def _code(source: str, signal: str) -> CodeType:
    # Plans of the same shape share their code: only the names that it looks up differ.
    file = f"<eventbus {signal} {next(_numbers)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    code = compile(source, file, "exec")
    weakref.finalize(code, linecache.cache.pop, file, None).atexit = False
    return code


def _shared_names(port: Port[...], plan: Plan) -> dict[str, Any]:
    signal, emitter = port.signal, port.emitter
    return {
        MARK: port,
        "_eb_sent": sent,
        "_eb_underway": emitter.bus.underway,
        "_eb_interpreted": emitter.bus.underway.interpreted,
        "_eb_pending": emitter.pending,
        "_eb_none": Answers.NONE,
        "_eb_not_due": NOT_DUE,
        "_eb_window": (1, 0),
        "_eb_not_sent": NotSentError,
        "_eb_Exception": Exception,  # fields may have the names of builtins
        "_eb_KeyError": KeyError,
        "_eb_int": int,
        "_eb_len": len,
        "_eb_dicts": DICTS,
        "_eb_shown": Shown,
        "_eb_event": functools.partial(Event, signal, emitter),
        "_eb_slow": port.slow,
        "_eb_settle": functools.partial(dispatch.settle, signal, emitter),
        "_eb_whole": functools.partial(dispatch.run_plan, signal, emitter, plan),
        "_eb_take_over": functools.partial(_take_over, port, plan),
    }


class NotSentError(Exception):
    """A handler that is due asks for a field that was not sent."""


def _take_over(
    port: Port[...], plan: Plan, index: int, result: Any, fields: dict[str, Any]
) -> Answers:
    began = dispatch.Began(index, result, [])
    return dispatch.run_plan(port.signal, port.emitter, plan, fields, began)


def _failed(
    port: Port[...],
    plan: Plan,
    handler_lines: dict[int, int],
    error: Exception,
    fields: dict[str, Any],
) -> Answers:
    index = handler_lines.get(_line_of(error))
    try:
        if index is None:
            raise error  # it was handed over, and dealt with, before it came here
        if isinstance(error, NotSentError):  # the handler was not called: the interpreter words it
            return dispatch.run_plan(port.signal, port.emitter, plan[index:], fields)
        began = dispatch.Began(index, None, [error])
    finally:
        del error  # with this frame it is a cycle, and would keep the loss alive
    return dispatch.run_plan(port.signal, port.emitter, plan, fields, began)


def _line_of(error: Exception) -> int:
    assert error.__traceback__ is not None, "it was raised in the function's own frame"
    return error.__traceback__.tb_lineno


def compile_for(port: Port[...], plan: Plan, shape: tuple[str, ...]) -> None:
    """Have a port use functions that are made for a plan, where that can be.

    The last name of this module: whoever finds it finds all of them.

    Parameters
    ----------
    shape
        The names of the fields that are sent, as a rule, where the signal is given by name.
    """
    if not can_compile(port, plan):
        return
    if port.signal.value is not None:
        port.signal.install_transform(port, plan, _compile_transform(port, plan, shape))
    else:
        by_name = _by_name_when_asked(port, plan, shape)
        port.signal.install(port, plan, compile_emit(port, plan), by_name)
