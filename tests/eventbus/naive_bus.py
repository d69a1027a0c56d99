"""The bus as simply as it can be written: a list, sorted and walked at each emission.

It has no plans, no caches, no locks and no checks, and so shows what order, filters, senders,
failures, answers and re-entrancy mean. It is the oracle of the state machine: whatever dispatches
faster must do exactly this. Handlers take the event; plain receivers take `(sender, **fields)`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from eventbus import SkipBatch, Stop, StopEpoch

CLOCKS = {"batch_finished": "step", "epoch_finished": "epoch"}
"""On other signals a filter counts the emissions since its subscription."""

VALUES = {"batch_loaded": "batch"}
WITHOUT_STEP = {"run_closed"}
CLOSING = "run_closed"
IN_A_ROW = 3

DROPPED_BEFORE: dict[str, tuple[type, ...]] = {
    "epoch_started": (StopEpoch, SkipBatch),
    "batch_loaded": (SkipBatch,),
}
DROPPED_AFTER: dict[str, tuple[type, ...]] = {
    "batch_finished": (SkipBatch,),
    "batch_skipped": (SkipBatch,),
    "epoch_finished": (StopEpoch, SkipBatch),
    "run_closed": (Stop, StopEpoch, SkipBatch),
}


@dataclass(frozen=True)
class When:
    """A filter: a test of the clock or the count."""

    test: Callable[[int], bool]

    def __and__(self, other: When) -> When:
        return When(lambda clock: self.test(clock) and other.test(clock))

    def __or__(self, other: When) -> When:
        return When(lambda clock: self.test(clock) or other.test(clock))

    def __invert__(self) -> When:
        return When(lambda clock: not self.test(clock))


def every(n: int) -> When:
    return When(lambda clock: clock > 0 and clock % n == 0)


def at(*numbers: int) -> When:
    return When(lambda clock: clock in numbers)


def from_(n: int) -> When:
    return When(lambda clock: clock >= n)


def until(n: int) -> When:
    return When(lambda clock: clock <= n)


@dataclass(frozen=True)
class Event:
    """One emission."""

    name: str
    fields: dict[str, Any]
    emitter: NaiveEmitter

    @property
    def sender(self) -> str:
        return self.emitter.sender

    @property
    def bus(self) -> NaiveBus:
        return self.emitter.bus


@dataclass(eq=False)
class NaiveSubscription:
    """One handler's place, on one or more signals."""

    handler: Callable[..., Any]
    signals: tuple[str, ...]
    sequence: int
    when: When | None = None
    priority: int = 0
    sender: str | None = None
    name: str = ""
    on_error: str = "raise"
    once: bool = False
    plain: bool = False
    emissions: Counter[str] = field(default_factory=Counter)
    spent: bool = False
    collected: bool = False
    failures_in_a_row: int = 0
    switched_off: bool = False

    @property
    def may_replace(self) -> bool:
        return self.on_error == "raise" and not self.plain

    def hears(self, signal: str, emitter: NaiveEmitter) -> bool:
        if signal not in self.signals or self.switched_off:
            return False
        if self.sender is None:
            return not emitter.inner
        return self.sender == emitter.sender

    def is_due(self, event: Event) -> bool:
        if self.when is None:
            return True
        clock = CLOCKS.get(event.name)
        return self.when.test(event.fields[clock] if clock else self.emissions[event.name])

    def call(self, event: Event) -> Any:
        if self.plain:
            return self.handler(event.sender, **event.fields)
        return self.handler(event)


class NaiveBus:
    """Subscriptions, in the order they were made, and the emissions that are under way."""

    def __init__(self) -> None:
        self.subscriptions: list[NaiveSubscription] = []
        self.under_way: list[Event] = []
        self.mutes: Counter[str] = Counter()
        self._made = 0

    def on(self, *signals: str, **options: Any) -> Callable[[Any], Any]:
        def subscribe(handler: Any) -> Any:
            self._made += 1
            self.subscriptions.append(NaiveSubscription(handler, signals, self._made, **options))
            return handler

        return subscribe

    def once(self, *signals: str, **options: Any) -> Callable[[Any], Any]:
        return self.on(*signals, once=True, **options)

    def detach(self, handler: Any) -> None:
        kept = [each for each in self.subscriptions if each.handler is not handler]
        if len(kept) == len(self.subscriptions):
            raise LookupError("not attached")
        self.subscriptions = kept

    def signal(self, name: str) -> NaiveSignal:
        return NaiveSignal(self, name)

    def bind(self, sender: str, parent: NaiveEmitter | None = None) -> NaiveEmitter:
        return NaiveEmitter(self, sender, parent)

    def emit(self, signal: str, /, **fields: Any) -> list[Any]:
        """Emit from within a handler: by the emitter whose emission is under way."""
        return self.under_way[-1].emitter.emit(signal, **fields)

    def listeners(self, signal: str, emitter: NaiveEmitter) -> list[NaiveSubscription]:
        if self.mutes[signal]:
            return []
        hearing = [each for each in self.subscriptions if each.hears(signal, emitter)]
        return sorted(hearing, key=lambda each: (-each.priority, each.sequence))


def _collected(sender: object, **sent: Any) -> None:
    """Stand where a receiver was that is gone."""


@dataclass(frozen=True)
class NaiveSignal:
    """What plain blinker code uses."""

    bus: NaiveBus
    name: str

    def connect(self, receiver: Any) -> Any:
        if not any(s.plain and s.handler is receiver for s in self.bus.subscriptions):
            self.bus.on(self.name, plain=True)(receiver)
        return receiver

    def forgets(self, receiver: Any) -> None:
        """Know that a receiver is about to be collected: it is called no more, not even now."""
        for each in self.bus.subscriptions:
            if each.plain and each.handler is receiver:
                each.collected, each.handler = True, _collected
        self.disconnect(_collected)

    def disconnect(self, receiver: Any) -> None:
        held = self.bus.subscriptions
        self.bus.subscriptions = [s for s in held if not (s.plain and s.handler is receiver)]

    @contextmanager
    def muted(self) -> Iterator[None]:
        self.bus.mutes[self.name] += 1
        try:
            yield
        finally:
            self.bus.mutes[self.name] -= 1


class NaiveEmitter:
    """A run's side of the bus, with the answers that are pending for it."""

    def __init__(self, bus: NaiveBus, sender: str, parent: NaiveEmitter | None = None) -> None:
        self.bus = bus
        self.sender = sender
        self.parent = parent
        self.inner = parent is not None
        self.own: list[Any] = []

    @property
    def answers(self) -> list[Any]:
        stops = self.parent.answers if self.parent is not None else []
        return self.own + [each for each in stops if isinstance(each, Stop)]

    def signal(self, name: str) -> Any:
        return SimpleNamespace(emit=partial(self.emit, name))

    def emit(self, signal: str, /, **fields: Any) -> list[Any]:
        """Return what is pending after the handlers and before anything is dropped."""
        pending, _ = self._run(signal, fields)
        return pending

    def transform(self, signal: str, value: Any, /, **fields: Any) -> Any:
        _, fields = self._run(signal, {VALUES[signal]: value, **fields})
        return fields[VALUES[signal]]

    def _run(self, signal: str, fields: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        self._drop(DROPPED_BEFORE.get(signal, ()))
        event = Event(signal, self._filled_in(signal, fields), self)
        self.bus.under_way.append(event)
        try:
            self._call_each(event)
            return self.answers, event.fields
        finally:
            self.bus.under_way.pop()
            self._drop(DROPPED_AFTER.get(signal, ()))

    def _drop(self, kinds: tuple[type, ...]) -> None:
        self.own = [each for each in self.own if not isinstance(each, kinds)]

    def _filled_in(self, signal: str, fields: dict[str, Any]) -> dict[str, Any]:
        filled: dict[str, Any] = {}
        for outer in self.bus.under_way:
            if outer.emitter is self and signal not in WITHOUT_STEP:
                filled |= {k: v for k, v in outer.fields.items() if k in ("epoch", "step")}
        return filled | fields

    def _call_each(self, event: Event) -> None:
        failed: list[Exception] = []
        for each in self.bus.listeners(event.name, self):
            each.emissions[event.name] += 1
            if failed and each.on_error == "raise" and event.name != CLOSING:
                continue
            try:
                self._call(each, event)
            except Exception as error:
                if each.on_error == "raise":
                    failed.append(error)
                else:
                    self._isolate(each, error, event)
        try:
            if len(failed) > 1:
                raise ExceptionGroup("several", failed)
            if failed:
                raise failed[0]
        finally:
            del failed  # with the errors' frames it is a cycle, and holds who was called

    def _call(self, each: NaiveSubscription, event: Event) -> None:
        if each.collected or not each.is_due(event) or (each.once and each.spent):
            return
        if each.once:
            each.spent = True
            self.bus.subscriptions = [s for s in self.bus.subscriptions if s is not each]
        result = each.call(event)
        self._accept(result, each, event)
        each.failures_in_a_row = 0

    def _accept(self, result: Any, each: NaiveSubscription, event: Event) -> None:
        answers = result if isinstance(result, list) else [result]
        if isinstance(answers[0], Stop | StopEpoch | SkipBatch):
            self.own += answers
        elif result is not None and event.name in VALUES and each.may_replace:
            event.fields[VALUES[event.name]] = result

    def _isolate(self, each: NaiveSubscription, error: Exception, event: Event) -> None:
        each.failures_in_a_row += 1
        if not any(outer.name == "handler_failed" for outer in self.bus.under_way):
            self.emit("handler_failed", handler=each.name, signal=event.name, exception=error)
        if each.failures_in_a_row >= IN_A_ROW:
            each.switched_off = True
