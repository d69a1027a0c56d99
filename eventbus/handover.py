"""One call of a handler on its way to another thread: what it is given, what comes back.

An answer is pending from the next emission on; a failure waits for the loop to come by.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from eventbus.answers import Request, Stop
from eventbus.background import HELD
from eventbus.calling import REQUIRED, Wants
from eventbus.copies import Copies
from eventbus.depth import refuse_depth
from eventbus.errors import HandlerError
from eventbus.event import Event
from eventbus.failures import IN_A_ROW
from eventbus.log import log
from eventbus.results import answers_in, refuse_mistakes

if TYPE_CHECKING:
    from eventbus.pending import Pending
    from eventbus.subscription import Subscription
    from eventbus.worker import Worker

__all__ = ["Call", "Failure", "LateError", "Pack", "packing"]


Pack = Callable[[Event], tuple[tuple[Any, ...], dict[str, Any]]]


class Here(threading.local):
    """The background calls that have led to the one on this thread: their signals, last first."""

    chain: tuple[str, ...] = ()


_here = Here()


class Failure(NamedTuple):
    """What a handler raised off the loop's thread, and on which emission."""

    error: Exception
    subscription: Subscription
    event: Event


class LateError(Exception):
    """Brings failures of background handlers into an emission; only `dispatch` sees it."""

    def __init__(self, failures: tuple[Failure, ...]) -> None:
        super().__init__(f"{len(failures)} failures of background handlers")
        self.failures = failures


class Call:
    """One call of a handler, with all that it needs, on its way to another thread."""

    __slots__ = ("_arguments", "_chain", "_copies", "_event", "_subscription", "_worker", "pending")

    def __init__(
        self, worker: Worker, subscription: Subscription, pack: Pack, event: Event
    ) -> None:
        self._chain = (event.name, *_here.chain)
        refuse_depth(self._chain)
        args, keywords = pack(event)
        copies = Copies()
        self._worker = worker
        self._subscription = subscription
        self._event = _place(event)
        self.pending: Pending | None = event.emitter.pending
        self._arguments = (
            [_detached(each, copies) for each in args],
            {name: _detached(each, copies) for name, each in keywords.items()},
        )
        self._copies = copies
        copies.seal()

    def run(self) -> None:
        """Call the handler, if it has not failed for good; see to what it says."""
        subscription = self._subscription
        limit = IN_A_ROW if subscription.isolated else 1
        try:
            if subscription.failures_in_a_row >= limit:
                self._worker.skipped += 1
                return
            self._call()
            subscription.failures_in_a_row = 0
        except BaseException as error:  # noqa: BLE001 - on this thread nobody else would see it
            self._worker.failed(Failure(_as_exception(error, subscription), *self._where))
        finally:
            del self._arguments, self._copies

    @property
    def _where(self) -> tuple[Subscription, Event]:
        return self._subscription, self._event

    def _call(self) -> None:
        self._copies.wait()
        args, keywords = self._arguments
        _here.chain = self._chain
        result = self._subscription.handler(*args, **keywords)
        if result is not None:
            self._heed(result)

    def _heed(self, result: Any) -> None:
        label = self._subscription.label
        answers = answers_in(result, label)
        for answer in answers:
            if not isinstance(answer, Request):
                raise HandlerError(
                    f"handler {label!r} is in the background: its {type(answer).__name__} comes "
                    "too late for the emission that it answers",
                    handler=label,
                )
            self._give(answer.signed(self._subscription.name))
        if not answers:
            refuse_mistakes(result, label)

    def _give(self, answer: Request) -> None:
        pending = self.pending
        if pending is None:
            label = self._subscription.label
            log().warning("handler %r: %r comes after the run was closed", label, answer)
            return
        pending.accept(answer)
        if isinstance(answer, Stop):
            self._subscription.bus.inbox.untold.append(answer)


def pack(*args: Any, **keywords: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what a handler would be called with."""
    return args, keywords


class Own(NamedTuple):
    """A default of the handler's own: it is given as it is, for the loop knows nothing of it."""

    value: Any


def packing(wants: Wants) -> Wants:
    """Return the same wishes, of a function that only returns what was wished for."""
    each = [
        want if want.default is REQUIRED else want._replace(default=Own(want.default))
        for want in wants.each
    ]
    return wants._replace(target=pack, each=tuple(each))


class Origin:
    """What a detached event keeps of the emitter: neither the model nor the optimizer."""

    __slots__ = ("bus", "context", "sender")

    def __init__(self, event: Event) -> None:
        emitter = event.emitter
        self.bus = emitter.bus
        self.sender = emitter.sender
        context = {k: v for k, v in event.context.items() if k not in HELD}
        self.context = MappingProxyType(context)


def _detached(value: Any, copies: Copies) -> Any:
    if type(value) is Own:
        return value.value
    if not isinstance(value, Event):
        return copies.of(value)
    return Event(value.signal, Origin(value), copies.of(value._fields))  # type: ignore[arg-type]  # stands in for the emitter


def _place(event: Event) -> Event:
    fields = {name: event._fields[name] for name in ("epoch", "step") if name in event._fields}
    return Event(event.signal, Origin(event), fields)  # type: ignore[arg-type]  # stands in for the emitter


def _as_exception(error: BaseException, subscription: Subscription) -> Exception:
    if isinstance(error, Exception):
        return error
    label = subscription.label
    wrapped = HandlerError(
        f"handler {label!r} raised {type(error).__name__}, which ends nothing off the loop's "
        "thread: answer Stop(..., exit_code=...)",
        handler=label,
    )
    wrapped.__cause__ = error
    return wrapped
