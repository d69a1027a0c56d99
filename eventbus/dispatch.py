"""How an emission runs: who is called, what becomes of results, of answers and of failures.

In order of priority, each handler that is due is called. What it returns is an answer, the new
value of a transform, or of no interest. When a handler that raises fails, isolated ones still run,
later raising ones do not (nothing may decide or save on a broken step), and the exception goes to
the loop as itself with a note. Only `Exception` is caught: Ctrl-C always stops training.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from eventbus.answers import Answer, Answers, Request, Stop
from eventbus.declaration import CONTEXT
from eventbus.errors import HandlerError, SignalError
from eventbus.event import Event
from eventbus.failures import blame, raise_all

if TYPE_CHECKING:
    from eventbus.emitter import Emitter
    from eventbus.event_signal import EventSignal
    from eventbus.plan import Plan, PlannedCall

__all__ = ["emit", "here", "transform"]

DEPTH_LIMIT = 50
"""Emissions inside emissions; a cycle is named long before Python's own limit."""

CLOSING = "run_closed"
"""The signal on which every handler runs, whatever another one raised."""


class _Now(threading.local):
    event: Event | None = None


_now = _Now()


def here(bus: Any) -> Event | None:
    """Return the emission of this bus that this thread is inside of, if any."""
    event = _now.event
    while event is not None and event.emitter.bus is not bus:
        event = event.outer
    return event


def emit(signal: EventSignal[Any], emitter: Emitter, fields: dict[str, Any]) -> Answers:
    """Run an emission; return all pending answers, with those of this emission in `given`."""
    if signal.value is not None and not emitter.bus.inert:
        raise SignalError(
            f"signal {signal.name!r} is a transform of {signal.value!r}: "
            f"use transform({signal.name!r}, {signal.value}, ...)",
            signal=signal.name,
        )
    return _run(signal, emitter, fields)


def transform(
    signal: EventSignal[Any], emitter: Emitter, value: Any, fields: dict[str, Any]
) -> Any:
    """Run an emission whose value handlers may replace; return the value."""
    key = signal.value
    if emitter.bus.inert:
        return value
    if key is None:
        raise SignalError(
            f"signal {signal.name!r} has no value to transform: use emit({signal.name!r}, ...)",
            signal=signal.name,
        )
    fields = {key: value, **fields}
    _run(signal, emitter, fields)
    return fields[key]


def _run(signal: EventSignal[Any], emitter: Emitter, fields: dict[str, Any]) -> Answers:
    has_context = signal.has_context(fields)
    if signal.begins:
        signal.begin(emitter)
    plan = signal.plan(emitter)
    try:
        given = _call_all(signal, emitter, fields, has_context, plan) if plan else ()
        answers = emitter.pending.answers
        if given or emitter.bus.inbox.untold:
            _tell_stops(emitter, given)
    finally:
        if signal.ends:
            signal.end(emitter)
    return Answers(answers.pending, given) if given else answers


Given = tuple[tuple[str, Answer], ...]


def _call_all(
    signal: EventSignal[Any],
    emitter: Emitter,
    fields: dict[str, Any],
    has_context: bool,
    plan: Plan,
) -> Given:
    outer = _now.event
    event = Event(signal, emitter, fields, _split(fields) if has_context else None, outer)
    if outer is not None:
        _check_depth(event)
        _fill_in(event)
    given: list[tuple[str, Answer]] = []
    _now.event = event
    try:
        failures = _call_each(plan, event, given)
    finally:
        _now.event = outer
    if failures:
        raise_all(failures, event)
    return tuple(given)


def _call_each(plan: Plan, event: Event, given: list[tuple[str, Answer]]) -> list[Exception]:
    failed: list[Exception] = []
    closing = event.signal.name == CLOSING
    for planned in plan:
        if planned.count is not None:
            planned.count()
        if failed and not (planned.isolated or closing):
            continue
        try:
            result = planned.take(event)
            if result is not None:
                _accept(result, planned, event, given)
        except Exception as error:
            if planned.isolated:
                event.emitter.bus.failures.isolate(planned, error, event)
            else:
                failed.append(blame(error, planned.label, event))
        else:
            if planned.isolated and planned.receiver is not None:
                planned.receiver.subscription.failures_in_a_row = 0
    return failed


# -- what a handler returned


def _accept(
    result: Any, planned: PlannedCall, event: Event, given: list[tuple[str, Answer]]
) -> None:
    answers = _answers_in(result)
    if answers:
        for answer in answers:
            given.append((planned.by, _signed(answer, planned.by, event)))
        return
    if planned.receiver is None:
        return  # a plain blinker receiver may return what it likes
    _refuse_mistakes(result, planned)
    key = event.signal.value
    if key is not None and planned.may_replace:
        event._fields[key] = result


def _answers_in(result: Any) -> tuple[Answer, ...]:
    if isinstance(result, Answer):
        return (result,)
    if isinstance(result, list | tuple) and result:
        if all(isinstance(one, Answer) for one in result):
            return tuple(result)
    return ()


def _signed(answer: Answer, by: str, event: Event) -> Answer:
    if isinstance(answer, Request):
        answer = answer.signed(by)
        event.emitter.pending.accept(answer)
    return answer


def _refuse_mistakes(result: Any, planned: PlannedCall) -> None:
    if isinstance(result, bool):
        text = f"{result}, which decides nothing: return Stop('why'), or None"
    elif isinstance(result, type) and issubclass(result, Answer):
        text = f"the class {result.__name__}: return {result.__name__}('why')"
    elif hasattr(result, "__await__") and hasattr(result, "close"):
        result.close()  # else Python warns that it was never awaited
        text = "a coroutine: the bus awaits nothing, write a plain function"
    else:
        return
    raise HandlerError(f"handler {planned.label!r} returned {text}", handler=planned.label)


def _tell_stops(emitter: Emitter, given: Given) -> None:
    bus = emitter.bus
    told = [answer for _, answer in given if isinstance(answer, Stop)]
    told += bus.inbox.take_untold() if not emitter.inner else []
    for stop in told:
        fields = {"reason": stop.reason, "handler": stop.by}
        _run(bus.signal("stop_requested"), emitter, fields)


# -- an emission inside another


def _split(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: fields.pop(name) for name in CONTEXT if name in fields}


def _fill_in(event: Event) -> None:
    """Give epoch and step of the emission that this one is inside of, where they were not sent."""
    outer = here(event.emitter.bus) if event.outer is not None else None
    if outer is None:
        return
    declaration = event.signal.declaration
    for name in ("epoch", "step"):
        wanted = declaration is None or name in declaration.fields
        if wanted and name not in event._fields and name in outer._fields:
            event._fields[name] = outer._fields[name]


def _check_depth(event: Event) -> None:
    names, at = [], event.outer
    while at is not None:
        names.append(at.name)
        at = at.outer
    if len(names) >= DEPTH_LIMIT:
        cycle = " inside ".join(dict.fromkeys([event.name, *names]))
        raise SignalError(
            f"emissions inside emissions, {DEPTH_LIMIT} deep: {cycle}", signal=event.name
        )
