"""What is on a bus: its signals, subscriptions and attached things. All changes take one lock."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from eventbus.attachment import Attachment, attach
from eventbus.declaration import Declaration
from eventbus.errors import AttachError, SignalError
from eventbus.event_signal import EventSignal
from eventbus.handler_names import class_of, defines, is_same, label_of, redefinition_key
from eventbus.log import log
from eventbus.signal_names import check_name, check_pattern, covers, is_pattern
from eventbus.signals import STANDARD
from eventbus.subscription import Options, Receiver, Subscription
from eventbus.worker import Worker

if TYPE_CHECKING:
    from eventbus.bus import EventBus

__all__ = ["Registry"]

_STANDARD_FIELDS = frozenset(name for each in STANDARD.values() for name in each.fields)


class Registry:
    """The parts of one bus."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.attachments: tuple[Attachment, ...] = ()
        self.workers: tuple[Worker, ...] = ()  # those of detached things too, till all is done
        self._lock = threading.RLock()
        self._sequence = itertools.count(1)
        self._signals: dict[str, EventSignal[...]] = {}
        self._subscriptions: dict[Subscription, None] = {}  # in the order they were made
        self._by_definition: dict[Any, dict[Subscription, None]] = {}
        self._classes: dict[tuple[str, str], type] = {}  # of what came last under each name

    # -- signals

    @property
    def signals(self) -> tuple[EventSignal[...], ...]:
        """Those that somebody has named so far."""
        return tuple(self._signals.values())

    def signal(self, named: Any) -> EventSignal[...]:
        """Return a signal by its name or declaration; make it where it is new."""
        if isinstance(named, EventSignal):
            return named
        name = named.name if isinstance(named, Declaration) else named
        found = self._signals.get(name) if isinstance(name, str) else None
        if found is None:
            with self._lock:
                found = self._signals.get(name) or self._new(name, named)
        if isinstance(named, Declaration) and named not in (found.declaration, *found.former):
            self.declare(named)  # a bare name so far, or the same cell run again
        return found

    def _new(self, name: Any, named: Any) -> EventSignal[...]:
        declaration = named if isinstance(named, Declaration) else STANDARD.get(name)
        if declaration is None and not self.bus.inert:
            own = [each.name for each in self.signals if each.declaration is not None]
            check_name(name, own, strict=self.bus.strict)
        return self._set_up(EventSignal(self.bus, name, declaration))

    def _set_up(self, signal: EventSignal[...]) -> EventSignal[...]:
        covering = [
            Receiver(subscription, signal)
            for subscription in self._subscriptions
            if any(covers(pattern, signal.name) for pattern in subscription.patterns)
        ]
        for receiver in covering:
            receiver.plug()
        self._signals[signal.name] = signal
        self._take_counts(covering)
        return signal

    def _take_counts(self, receivers: Iterable[Receiver]) -> None:
        if any(receiver.tally is not None for receiver in receivers):
            self.bus.take_counts()

    def declare(self, declaration: Declaration[...]) -> None:
        """Put a declaration on the bus; who subscribed to the bare name is held against it."""
        with self._lock:
            known = self._signals.get(declaration.name)
            old = known.declaration if known is not None else None
            if declaration.name in STANDARD or (old and not declaration.redefines(old)):
                message = f"signal {declaration.name!r} is declared already, in another way"
                raise SignalError(message, signal=declaration.name)
            if known is None:
                self._set_up(EventSignal(self.bus, declaration.name, declaration))
            else:
                known.declare(declaration)

    def known_fields(self) -> frozenset[str]:
        """Return the names of the fields of all declared signals."""
        declared = (each.declaration for each in self.signals)
        return _STANDARD_FIELDS.union(*(each.fields for each in declared if each is not None))

    # -- subscriptions

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """All but the bus's own, in the order in which they were made."""
        with self._lock:
            return tuple(s for s in self._subscriptions if not s.options.everywhere)

    def subscribe(
        self,
        handler: Callable[..., Any],
        signals: Iterable[str],
        name: str,
        options: Options,
        worker: Worker | None = None,
    ) -> Subscription:
        """Make one subscription, on all of its signals or on none."""
        names = tuple(dict.fromkeys(signals))
        with self._lock:
            subscription = Subscription(self.bus, handler, name, options, worker)
            subscription.patterns = tuple(filter(is_pattern, names))
            covered = [signal for name in names for signal in self._covered(name, subscription)]
            for receiver in [Receiver(subscription, each) for each in dict.fromkeys(covered)]:
                receiver.plug()
            self._subscriptions[subscription] = None
            self._note_definition(subscription)
            if subscription.worker is not None:
                subscription.worker.join()
                self.keep_worker(subscription.worker)
        self._take_counts(subscription.receivers.values())
        return subscription

    def _covered(self, name: str, subscription: Subscription) -> list[EventSignal[...]]:
        if not is_pattern(name):
            return [self.signal(name)]
        known = {**STANDARD, **self._signals}
        covered = [self.signal(each) for each in known if covers(name, each)]
        odd = "" if covered or self.bus.inert else check_pattern(name, strict=self.bus.strict)
        if odd:
            text = "handler %r: the pattern %r covers no signal so far: %s"
            log().warning(text, subscription.label, name, odd)
        return covered

    def next_sequence(self) -> int:
        """Return the next place in the order of subscription."""
        return next(self._sequence)

    def holds(self, subscription: Subscription) -> bool:
        """Tell whether a subscription takes part."""
        return subscription in self._subscriptions

    def end(self, subscription: Subscription) -> None:
        """End a subscription; nothing where it has ended."""
        with self._lock:
            if subscription in self._subscriptions:
                del self._subscriptions[subscription]
                self._forget_definition(subscription)
                for receiver in subscription.receivers.values():
                    receiver.signal.disconnect(receiver)
                if subscription.worker is not None:
                    subscription.worker.leave()
                    self.drop_workers()

    def keep_worker(self, worker: Worker) -> None:
        """Have the end of a run wait for a worker."""
        with self._lock:
            if worker not in self.workers:
                self.workers = (*self.workers, worker)

    def drop_workers(self) -> None:
        """Forget the workers of which nothing can come any more."""
        with self._lock:
            self.workers = tuple(worker for worker in self.workers if not worker.is_over)

    def replace_redefined(self, handler: Any) -> list[str]:
        """Detach what a function was before it was defined again; return the names."""
        with self._lock:
            held = tuple(self._by_definition.get(redefinition_key(handler), ()))
        old = [one for one in held if one.handler is not handler]
        for subscription in old:
            subscription.detach()
            self.forget(subscription.handler)
        return [label_of(subscription.handler) for subscription in old]

    def replace_instances(self, handler: Any) -> dict[str, bool]:
        """Detach the objects of a class that was defined again since.

        Returns their names, and whether each had state.
        """
        kind = class_of(handler)
        if kind is None or self._is_latest(kind) or not defines(kind):
            return {}
        attached = [one for one in self.attachments if _is_older(one.thing, kind)]
        for attachment in attached:
            attachment.detach()
        subscribed = [one for one in self.subscriptions if _is_older(one.handler, kind)]
        for subscription in subscribed:
            subscription.detach()
        names = dict.fromkeys((one.name for one in subscribed), False)
        return {**names, **{one.name: one.has_state for one in attached}}

    def _is_latest(self, kind: type) -> bool:
        with self._lock:
            latest = self._classes.setdefault((kind.__module__, kind.__qualname__), kind)
            self._classes[kind.__module__, kind.__qualname__] = kind
        return latest is kind

    def _note_definition(self, subscription: Subscription) -> None:
        key = redefinition_key(subscription.handler)
        if key is not None and not subscription.options.everywhere:
            self._by_definition.setdefault(key, {})[subscription] = None

    def _forget_definition(self, subscription: Subscription) -> None:
        key = redefinition_key(subscription.handler)
        held = self._by_definition.get(key, {})
        held.pop(subscription, None)
        if not held:
            self._by_definition.pop(key, None)

    # -- attached things

    def attach(self, thing: Any, name: str | None, overrides: dict[str, Any]) -> Attachment:
        """Subscribe every mark of a thing, once."""
        with self._lock:
            self._refuse_second(thing)
            attachment = attach(self.bus, thing, name, overrides)
            self.attachments = (*self.attachments, attachment)
        return attachment

    def _refuse_second(self, thing: Any) -> None:
        for held in self.attachments:
            if not is_same(held.thing, thing) and not held.calls(thing):
                continue
            within = "" if is_same(held.thing, thing) else f", with {held.name!r}"
            raise AttachError(f"{thing!r} is attached already{within}: detach it first")

    def forget(self, thing: Any) -> None:
        """Let go of a thing that was attached."""
        with self._lock:
            self.attachments = tuple(held for held in self.attachments if held.thing is not thing)

    def state_names(self) -> set[str]:
        """Return the names under which attached things keep state."""
        return {held.name for held in self.attachments if held.has_state}

    # -- all of it

    def changed(self) -> None:
        """Have every signal decide anew who is called."""
        for signal in self.signals:
            signal.changed()

    def renew_locks(self) -> None:
        """Take new locks, in a forked child where the old ones may be held."""
        self._lock = threading.RLock()
        for signal in self._signals.values():
            signal.renew_lock()


def _is_older(held: Any, kind: type) -> bool:
    """Tell whether something is of an earlier definition of a class."""
    other = class_of(held)
    if other is None or other is kind:
        return False
    return (other.__module__, other.__qualname__) == (kind.__module__, kind.__qualname__)
