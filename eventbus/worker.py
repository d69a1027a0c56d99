"""What calls a background handler: a thread of its own, and the loop's end of the queue to it.

On the loop's thread the filter is asked and the fields that the handler names are copied; the rest
happens on the other thread, in order.
"""

from __future__ import annotations

import atexit
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eventbus.backlog import Backlog
from eventbus.calling import NOT_DUE
from eventbus.handover import Call, Failure, LateError, Pack
from eventbus.log import log

if TYPE_CHECKING:
    from eventbus.background import Background
    from eventbus.bus import EventBus
    from eventbus.emitter import Emitter
    from eventbus.event import Event
    from eventbus.subscription import Subscription

__all__ = ["Worker", "close"]


class Worker:
    """Calls the handlers of one subscribed thing, in order, on a thread of its own.

    The thread is started by the first emission, and ends when the thing is detached, the run is
    closed, or the bus is gone.
    """

    def __init__(self, background: Background, label: str) -> None:
        self.background = background
        self.label = label
        self.users = 0  # subscriptions; changed under the registry's lock
        self.skipped = 0
        self._told_of = 0
        self._failures: deque[Failure] = deque()
        self._backlog: Backlog[Call] = Backlog(
            f"eventbus {label}", background.size, background.overflow
        )
        weakref.finalize(self, self._backlog.end).atexit = False
        _living.add(self)
        atexit.unregister(_finish_all)  # there once, however many workers
        atexit.register(_finish_all)

    @property
    def dropped(self) -> int:
        """How many emissions it was never called for: no place, or it had failed."""
        return self._backlog.dropped + self.skipped

    @property
    def is_over(self) -> bool:
        """Whether nothing can come of it any more."""
        return not (self.users or self._failures or self._backlog.tasks)

    def join(self) -> None:
        """Take one more subscription."""
        self.users += 1

    def leave(self) -> None:
        """Let a subscription go; after the last one the thread ends, once all is done."""
        self.users -= 1
        if not self.users:
            self._backlog.end()

    # -- on the loop's thread

    def hand_over(self, subscription: Subscription, pack: Pack) -> Callable[[Event], Any]:
        """Return what takes an event in the handler's place."""

        def take(event: Event) -> Any:
            gave_way = self._backlog.put(Call(self, subscription, pack, event), last=not self.users)
            if gave_way and self._backlog.dropped == gave_way:
                self._warn_of_drops()
            if not self.users:  # `once`, or another thread detached it: it is waited for as well
                subscription.bus.registry.keep_worker(self)
            return NOT_DUE

        return take

    def watched(self, take: Callable[[Event], Any]) -> Callable[[Event], Any]:
        """Return `take`, which also brings failures into the emission, due or not."""

        def watched(event: Event) -> Any:
            result = take(event)
            if self._failures:
                raise LateError(self.take_failures())
            return result

        return watched

    def take_failures(self) -> tuple[Failure, ...]:
        """Return the failures so far, once."""
        failures = []
        while self._failures:
            failure = self._failures.popleft()
            failures.append(failure)
            if not failure.subscription.isolated:
                failure.subscription.failures_in_a_row = 0  # raised now: it may go on
        return tuple(failures)

    def settle(self) -> None:
        """Wait until nothing is under way: its state is asked for."""
        if left := self._backlog.wait(self.background.timeout_s):
            log().warning("handler %r: its state is read, and misses %s", self.label, _count(left))

    def close(self, timeout_s: float, emitter: Emitter) -> None:
        """Wait until all is done; log what is left, whose answers are no longer heard."""
        if left := self._backlog.wait(max(timeout_s, 0.0)):
            log().warning(
                "handler %r: %s not handled when the run was closed, after %g s",
                self.label,
                _count(left),
                self.background.timeout_s,
            )
        for call in self._backlog.tasks:
            if call.pending is emitter.pending:
                call.pending = None
        self._tell_of_drops()
        if not emitter.inner:
            self._backlog.end()

    def _tell_of_drops(self) -> None:
        if self.dropped > self._told_of:
            log().warning("handler %r: %s dropped", self.label, _count(self.dropped))
            self._told_of = self.dropped

    def finish(self, timeout_s: float) -> None:
        """The process ends: wait as `close` does, and log what no emission will bring any more."""
        if left := self._backlog.wait(max(timeout_s, 0.0)):
            text = "handler %r: %s not handled when the process ended"
            log().warning(text, self.label, _count(left))
        self._tell_of_drops()
        for error, subscription, event in self.take_failures():
            log().error("handler %r failed: %s", subscription.label, event.where(), exc_info=error)

    def _warn_of_drops(self) -> None:
        if self.background.overflow != "latest":  # there it is meant
            log().warning("handler %r is slower than the loop: emissions are dropped", self.label)

    # -- on its own thread

    def failed(self, failure: Failure) -> None:
        """Keep a failure until the loop comes by."""
        failure.subscription.failures_in_a_row += 1
        self._failures.append(failure)
        failure.subscription.changed()  # a compiled function would pass over it


def close(bus: EventBus, emitter: Emitter) -> None:
    """End a run for all background handlers on a bus; raise what they raised meanwhile."""
    workers, start = bus.registry.workers, time.monotonic()
    for worker in workers:
        worker.close(start + worker.background.timeout_s - time.monotonic(), emitter)
    failures = [failure for worker in workers for failure in worker.take_failures()]
    bus.registry.drop_workers()
    if failures:
        raise LateError(tuple(failures))


_living: weakref.WeakSet[Worker] = weakref.WeakSet()


def _finish_all() -> None:
    """Wait for all that is under way at the interpreter's end: a loop may have closed no run."""
    start = time.monotonic()
    for worker in list(_living):
        worker.finish(start + worker.background.timeout_s - time.monotonic())


def _count(emissions: int) -> str:
    return f"{emissions} emission{'' if emissions == 1 else 's'}"
