"""How an emission runs: who is called, what becomes of results, of answers and of failures.

In order of priority, each handler that is due is called. What it returns is an answer, the new
value of a transform, or of no interest. When a handler that raises fails, isolated ones still run,
later raising ones do not (nothing may decide or save on a broken step), and the exception goes to
the loop as itself with a note. Only `Exception` is caught: Ctrl-C always stops training. Where a
run is being closed it does so after the other handlers have closed what is theirs.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from eventbus.answers import Answer, Answers, Request, Stop
from eventbus.declaration import CONTEXT
from eventbus.depth import refuse_depth
from eventbus.errors import FieldError, SignalError
from eventbus.event import Event, read_only
from eventbus.failures import blame, raise_all
from eventbus.frames import interpreters, surrounding
from eventbus.handover import Failure, LateError
from eventbus.results import answers_in, refuse_mistakes
from eventbus.subscription import NOT_DUE

if TYPE_CHECKING:
    from eventbus.emitter import Emitter
    from eventbus.event_signal import EventSignal
    from eventbus.plan import Plan, PlannedCall

__all__ = ["CLOSING", "Began", "emit", "run_plan", "settle", "transform"]

CLOSING = "run_closed"
"""The signal on which every handler runs, whatever another one raised, Ctrl-C too."""


STOP_REQUESTED = "stop_requested"


Given = list[tuple[str, Answer]]
"""Who gave what in one emission."""


class Began(NamedTuple):
    """How far a compiled function came: this handler returned something, or failed."""

    at: int
    result: Any
    failed: list[Exception]  # of one, or none; taken out of it: see `raise_all`


def emit(
    signal: EventSignal[...], emitter: Emitter, fields: dict[str, Any], outer: Event | None
) -> Answers:
    """Run an emission; return all pending answers, with those of this emission in `given`."""
    if signal.value is not None and not emitter.bus.inert:
        raise SignalError(
            f"signal {signal.name!r} is a transform of {signal.value!r}: "
            f"use transform({signal.name!r}, {signal.value}, ...)",
            signal=signal.name,
        )
    return _run(signal, emitter, fields, outer)


def transform(
    signal: EventSignal[...],
    emitter: Emitter,
    value: Any,
    fields: dict[str, Any],
    outer: Event | None,
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
    if key in fields:
        raise FieldError(
            f"{key!r} is the value of signal {signal.name!r}: give it once, "
            f"transform({signal.name!r}, {key}, ...)",
            signal=signal.name,
            field=key,
        )
    fields = {key: value, **fields}
    _run(signal, emitter, fields, outer)
    return fields[key]


def _run(
    signal: EventSignal[...], emitter: Emitter, fields: dict[str, Any], outer: Event | None
) -> Answers:
    extra = _split(fields) if signal.has_context(fields) else None
    if signal.begins:
        signal.begin(emitter)
    plan = signal.plan(emitter)
    if not plan and not emitter.bus.inbox.untold:  # who tells of a stop says where
        return _run_event(signal, emitter, plan, None)
    event = Event(signal, emitter, read_only(fields, signal.value), extra, outer)
    return _run_event(signal, emitter, plan, event)


def run_plan(
    signal: EventSignal[...],
    emitter: Emitter,
    plan: Plan,
    fields: dict[str, Any],
    began: Began | None = None,
) -> Answers:
    """Run a plan that a compiled function could not finish, from where it came to."""
    event = Event(signal, emitter, read_only(fields, signal.value))
    return _run_event(signal, emitter, plan, event, began)


def _run_event(
    signal: EventSignal[...],
    emitter: Emitter,
    plan: Plan,
    event: Event | None,
    began: Began | None = None,
) -> Answers:
    given: Given = []
    try:
        if event is not None:
            _call_all(plan, event, given, began)
        answers = emitter.pending.answers
        if emitter.bus.inbox.untold and not emitter.inner:  # told where all can hear it
            outer = event or surrounding(emitter.bus, sys._getframe(1))
            _tell_stops(emitter.bus.inbox.take_untold(), emitter, outer)
    finally:
        if signal.ends:
            signal.end(emitter)
    return Answers(answers.pending, tuple(given)) if given else answers


def settle(signal: EventSignal[...], emitter: Emitter, fields: dict[str, Any]) -> Answers:
    """Return what is pending after an emission in which nobody said anything."""
    return _run_event(signal, emitter, (), Event(signal, emitter, fields))


def _call_all(plan: Plan, event: Event, given: Given, began: Began | None) -> None:
    if event.outer is not None:
        _check_depth(event)
        _fill_in(event)
    failed: list[Exception] = []
    interpreted = event.emitter.bus.underway.interpreted
    interpreted.append(None)
    try:
        if began is not None:
            _finish(plan[began.at], event, given, failed, began)
            plan = plan[began.at + 1 :]
        _call_each(plan, event, given, failed)
        if given:
            failed += _told(given, event)
    finally:
        interpreted.pop()
    if failed:
        raise_all(failed, event)


interpreters.add(_call_all.__code__)


def _finish(
    planned: PlannedCall, event: Event, given: Given, failed: list[Exception], began: Began
) -> None:
    try:
        if began.failed:
            raise began.failed.pop()
        _accept(began.result, planned, event, given)
        if planned.isolated:
            planned.succeeded()
    except Exception as error:  # noqa: BLE001 - whatever a handler raises is dealt with
        failed += _failed(error, planned, event)


def _call_each(plan: Plan, event: Event, given: Given, failed: list[Exception]) -> None:
    closing = event.signal.name == CLOSING
    for planned in plan:
        if planned.count is not None:
            planned.count(event)
        if failed and not (planned.isolated or closing):
            continue
        try:
            result = planned.take(event)
            if result is NOT_DUE:
                continue
            if result is not None:
                _accept(result, planned, event, given)
            if planned.isolated:
                planned.succeeded()
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is dealt with
            failed += _failed(error, planned, event)
        except BaseException:
            if closing:  # Ctrl-C goes on, when the files of the others are closed
                _call_each(plan[plan.index(planned) + 1 :], event, given, failed)
            raise


def _failed(error: Exception, planned: PlannedCall, event: Event) -> list[Exception]:
    if isinstance(error, LateError):
        return [each for late in error.failures for each in _failed_late(late, event.emitter)]
    if not planned.isolated:
        return [blame(error, planned.label, event)]
    assert planned.receiver is not None, "plain receivers are not isolated"
    subscription = planned.receiver.subscription
    subscription.failures_in_a_row += 1
    return _isolated(Failure(error, subscription, event), event.emitter)


def _failed_late(late: Failure, emitter: Emitter) -> list[Exception]:
    if late.subscription.isolated:
        return _isolated(late, emitter)
    return [blame(late.error, late.subscription.label, late.event)]


def _isolated(failure: Failure, emitter: Emitter) -> list[Exception]:
    error, subscription, event = failure
    try:
        emitter.bus.failures.isolate(subscription, error, event, emitter)
    except Exception as second:  # noqa: BLE001 - a listener to `handler_failed` that raises
        return [second]
    return []


# -- what a handler returned


def _accept(result: Any, planned: PlannedCall, event: Event, given: Given) -> None:
    answers = answers_in(result, planned.label)
    for answer in answers:
        given.append((planned.by, _signed(answer, planned.by, event)))
    if answers or planned.receiver is None:
        return  # a plain blinker receiver may return what it likes
    key = event.signal.value if planned.may_replace else None
    refuse_mistakes(result, planned.label, may_be_value=key is not None)
    if key is not None:
        event._fields[key] = result


def _signed(answer: Answer, by: str, event: Event) -> Answer:
    if isinstance(answer, Request):
        answer = answer.signed(by)
        event.emitter.pending.answer(answer)
    return answer


# -- stop_requested


def _told(given: Given, event: Event) -> list[Exception]:
    """Tell of the stops given in this emission, also where it failed; return what that raised."""
    if event.name == STOP_REQUESTED:
        return []
    try:
        stops = [answer for _, answer in given if isinstance(answer, Stop)]
        _tell_stops(stops, event.emitter, event)
    except Exception as error:  # noqa: BLE001 - raised with the others
        return [error]
    return []


def _tell_stops(stops: list[Stop], emitter: Emitter, outer: Event | None) -> None:
    signal = emitter.bus.signal(STOP_REQUESTED)
    for stop in stops:
        _run(signal, emitter, {"reason": stop.reason, "handler": stop.by}, outer)


# -- an emission inside another


def _split(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: fields.pop(name) for name in CONTEXT if name in fields}


def _fill_in(event: Event) -> None:
    """Give epoch and step of what this emission is inside of, where they were not sent."""
    declaration = event.signal.declaration
    for name in ("epoch", "step"):
        if declaration is None or name in declaration.fields:
            _fill_in_one(name, event)


def _fill_in_one(name: str, event: Event) -> None:
    outer = event.outer
    while outer is not None and name not in event._fields:
        if outer.emitter.context is event.emitter.context and name in outer._fields:
            event._fields[name] = outer._fields[name]
        outer = outer.outer


def _check_depth(event: Event) -> None:
    names: list[str] = []
    at: Event | None = event
    while at is not None:
        names.append(at.name)
        at = at.outer
    refuse_depth(names)
