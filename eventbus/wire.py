"""blinker's signal with a promised order, safe under threads.

blinker keeps receivers in sets and mutates them without a lock. Here every change goes through one
lock, and a dispatch iterates over a *roster*: an immutable tuple in order of priority, dropped at
once on each change and rebuilt when next needed. So the hot path takes no lock, and a receiver may
connect, disconnect or send while a send is under way; the next send sees the change.

Two differences from blinker: disconnecting during a `send` takes effect from the next one, and
`muted` nests.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from inspect import iscoroutinefunction
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from blinker import ANY, NamedSignal, Signal
from blinker._utilities import make_id, make_ref
from blinker.base import ANY_ID

__all__ = ["OrderedNamedSignal", "OrderedSignal"]

F = TypeVar("F", bound=Callable[..., Any])
_STALE_ENTRIES = 64  # blinker leaves empty buckets behind; from here on they are swept


class Entry(NamedTuple):
    """One receiver in a roster; `receiver` is a weak reference where `is_weak`."""

    receiver: Any
    is_weak: bool
    is_async: bool


Roster = tuple[Entry, ...]


class OrderedSignal(Signal):
    """A `blinker.Signal` whose receivers run in order of priority, then of connection.

    Examples
    --------
    >>> from eventbus.wire import OrderedSignal
    >>> signal = OrderedSignal()
    >>> late = signal.connect(lambda sender: "late", weak=False)
    >>> early = signal.connect(lambda sender: "early", weak=False, priority=10)
    >>> [result for receiver, result in signal.send()]
    ['early', 'late']
    """

    def __init__(self, doc: str | None = None) -> None:
        self._lock = threading.RLock()  # the garbage collector, or an OS signal, comes at any time
        self._is_held = False
        self._orphans: deque[tuple[str, Any, Any]] = deque()
        self._order: dict[Any, tuple[int, int]] = {}
        self._rosters: dict[Any, Roster] = {}
        self._connections = 0
        self._stale = 0
        self._mutes = 0
        self._connected: Signal | None = None
        self._disconnected: Signal | None = None
        Signal.__init__(self, doc)  # not NamedSignal, which wants a name first

    # -- told of changes: blinker looks these up in `__dict__`; an instance that was never asked for
    # that is quicker to read attributes from, and `emit` is one (`port.shadow`)

    @property
    def receiver_connected(self) -> Signal:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Sent with `receiver`, `sender` and `weak` when one is connected."""
        if self._connected is None:
            self._connected = Signal(doc="Emitted after a receiver connects.")
        return self._connected

    @property
    def receiver_disconnected(self) -> Signal:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Sent with `receiver` and `sender` when one is disconnected by hand."""
        if self._disconnected is None:
            self._disconnected = Signal(doc="Emitted after a receiver disconnects.")
        return self._disconnected

    # -- changes: each takes the lock, and drops what was built from the old state

    def connect(self, receiver: F, sender: Any = ANY, weak: bool = True, *, priority: int = 0) -> F:
        """Connect `receiver`, as blinker does; a higher `priority` runs first.

        A receiver that was connected strongly stays so. The sender 0 (and False) is refused:
        to blinker it means any sender.
        """
        _refuse_any_id(sender)
        receiver_id = make_id(receiver)
        with self._changing():
            held = self.receivers.get(receiver_id)
            weak = weak and (held is None or isinstance(held, weakref.ref))
            self._place(receiver, receiver_id, priority)
            self._enter(receiver, receiver_id, sender, weak)
        self._tell_connected(receiver, sender, weak)
        return receiver

    def _enter(self, receiver: Any, receiver_id: Any, sender: Any, weak: bool) -> None:
        sender_id = ANY_ID if sender is ANY else make_id(sender)
        self.receivers[receiver_id] = (
            make_ref(receiver, self._make_cleanup_receiver(receiver_id)) if weak else receiver
        )
        self._by_sender[sender_id].add(receiver_id)
        self._by_receiver[receiver_id].add(sender_id)
        if sender is not ANY and sender_id not in self._weak_senders:
            try:
                ref = make_ref(sender, self._make_cleanup_sender(sender_id))
            except TypeError:  # labels and other values cannot be referenced weakly
                return
            self._weak_senders[sender_id] = ref

    def _place(self, receiver: Any, receiver_id: Any, priority: int) -> None:
        placed = self._order.get(receiver_id)
        if placed is None or receiver_id not in self.receivers:
            self._order[receiver_id] = self._rank(receiver, priority)
        elif priority:
            self._order[receiver_id] = (-priority, placed[1])

    def _rank(self, receiver: Any, priority: int) -> tuple[int, int]:
        self._connections += 1
        return -priority, self._connections

    def _tell_connected(self, receiver: Any, sender: Any, weak: bool) -> None:
        if self._connected is None:
            return
        try:
            self._connected.send(self, receiver=receiver, sender=sender, weak=weak)
        except TypeError:
            self.disconnect(receiver, sender)
            raise

    def disconnect(self, receiver: Callable[..., Any], sender: Any = ANY) -> None:
        """Disconnect, as blinker does: from all senders, or from this one alone."""
        _refuse_any_id(sender)
        self._disconnect(make_id(receiver), ANY_ID if sender is ANY else make_id(sender))
        if self._disconnected is not None:
            self._disconnected.send(self, receiver=receiver, sender=sender)

    def _disconnect(self, receiver_id: Any, sender_id: Any) -> None:
        # The single funnel of blinker's removals.
        with self._lock:
            if self._is_held:  # by this thread: a `__del__`, or an OS signal, in the midst of it
                self._orphans.append(("pair", receiver_id, sender_id))
                return
            with self._changing():
                self._remove(receiver_id, sender_id)

    def _remove(self, receiver_id: Any, sender_id: Any) -> None:
        super()._disconnect(receiver_id, sender_id)
        if sender_id == ANY_ID:
            self._order.pop(receiver_id, None)
        else:
            self._sweep_sometimes()

    def _sweep_sometimes(self) -> None:
        self._stale += 1
        if self._stale >= _STALE_ENTRIES:
            self._stale = 0
            self._cleanup_bookkeeping()
            for receiver_id in [r for r in self.receivers if r not in self._by_receiver]:
                del self.receivers[receiver_id]
                self._order.pop(receiver_id, None)

    @contextmanager
    def connected_to(
        self, receiver: Callable[..., Any], sender: Any = ANY
    ) -> Generator[None, None, None]:
        """Connect for the length of a `with` block; what was connected before stays so."""
        _refuse_any_id(sender)
        receiver_id = make_id(receiver)
        sender_id = ANY_ID if sender is ANY else make_id(sender)
        before = self.receivers.get(receiver_id)
        was_paired = sender_id in self._by_receiver.get(receiver_id, ())
        self.connect(receiver, sender=sender, weak=False)
        try:
            yield
        finally:
            if before is None:
                self.disconnect(receiver)
            else:
                self._restore(receiver_id, sender_id, before, was_paired)

    def _restore(self, receiver_id: Any, sender_id: Any, before: Any, was_paired: bool) -> None:
        with self._changing():
            if receiver_id in self.receivers:
                self.receivers[receiver_id] = before
            if not was_paired:
                self._by_sender[sender_id].discard(receiver_id)
                self._by_receiver[receiver_id].discard(sender_id)

    @contextmanager
    def muted(self) -> Generator[None, None, None]:
        """Call nobody until the `with` block ends; blocks may nest."""
        with self._changing():
            self._mutes += 1
        try:
            yield
        finally:
            with self._changing():
                self._mutes -= 1

    @property
    def is_muted(self) -> bool:
        """True while nobody is called."""
        return self._mutes > 0

    @is_muted.setter
    def is_muted(self, muted: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]  # nests
        with self._changing():
            self._mutes = int(muted)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._held():
            try:
                yield
            finally:
                self._drop()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock; what this very thread is to remove meanwhile waits for the end."""
        with self._lock:
            if self._is_held:
                yield
                return
            self._is_held = True
            try:
                yield
            finally:
                if self._orphans:
                    self._drain()
                    self._drop()
                self._is_held = False

    def renew_lock(self) -> None:
        """Take a new lock and forget who is called: for a forked child, where it may be held."""
        self._lock = threading.RLock()
        self._is_held = False
        self._drop()

    def _drop(self) -> None:
        self._rosters = {}  # a dispatch under way keeps its own tuple

    # -- the garbage collector: its callbacks may run anywhere, also under our lock

    def _make_cleanup_receiver(self, receiver_id: Any) -> Callable[[weakref.ref[Any]], None]:
        return self._make_cleanup("receiver", receiver_id)

    def _make_cleanup_sender(self, sender_id: Any) -> Callable[[weakref.ref[Any]], None]:
        return self._make_cleanup("sender", sender_id)

    def _make_cleanup(self, kind: str, key: Any) -> Callable[[weakref.ref[Any]], None]:
        orphans, this = self._orphans, weakref.ref(self)

        def cleanup(ref: weakref.ref[Any]) -> None:
            orphans.append((kind, key, ref))
            signal = this()
            if signal is not None and not sys.is_finalizing():
                signal._try_drain()

        return cleanup

    def _try_drain(self) -> None:
        # Never waits: whoever holds the lock, perhaps this very thread, drains when done.
        if self._lock.acquire(blocking=False):
            try:
                with self._held():
                    pass
            finally:
                self._lock.release()

    def _drain(self) -> None:
        while self._orphans:
            kind, key, other = self._orphans.popleft()
            # An id may have been used again meanwhile: only the very reference is removed.
            if kind == "pair":
                self._remove(key, other)
            elif kind == "receiver" and self.receivers.get(key) is other:
                self._remove(key, ANY_ID)
            elif kind == "sender" and self._weak_senders.get(key) is other:
                self._forget_sender(key)

    def _forget_sender(self, sender_id: Any) -> None:
        del self._weak_senders[sender_id]
        for receiver_id in self._by_sender.pop(sender_id, ()):
            self._by_receiver[receiver_id].discard(sender_id)

    # -- dispatch: from a roster, without the lock

    def send(
        self,
        sender: Any = None,
        /,
        *,
        _async_wrapper: Callable[[Callable[..., Coroutine[Any, Any, Any]]], Callable[..., Any]]
        | None = None,
        **kwargs: Any,
    ) -> list[tuple[Callable[..., Any], Any]]:
        """Call each receiver with `(sender, **kwargs)`; the first exception aborts."""
        results = []
        for receiver, is_async in self._live(sender):
            if is_async:
                if _async_wrapper is None:
                    raise RuntimeError("Cannot send to a coroutine function.")
                result = _async_wrapper(receiver)(sender, **kwargs)
            else:
                result = receiver(sender, **kwargs)
            results.append((receiver, result))
        return results

    async def send_async(
        self,
        sender: Any = None,
        /,
        *,
        _sync_wrapper: Callable[[Callable[..., Any]], Callable[..., Coroutine[Any, Any, Any]]]
        | None = None,
        **kwargs: Any,
    ) -> list[tuple[Callable[..., Any], Any]]:
        """Await each receiver in turn, as blinker does."""
        results = []
        for receiver, is_async in self._live(sender):
            if not is_async:
                if _sync_wrapper is None:
                    raise RuntimeError("Cannot send to a non-coroutine function.")
                result = await _sync_wrapper(receiver)(sender, **kwargs)
            else:
                result = await receiver(sender, **kwargs)
            results.append((receiver, result))
        return results

    def receivers_for(self, sender: Any) -> Generator[Callable[..., Any], None, None]:
        """Yield the live receivers for `sender`, in the order in which they are called."""
        for receiver, _ in self._live(sender, muted_too=True):
            yield receiver

    def has_receivers_for(self, sender: Any) -> bool:
        """Tell whether anybody is connected for `sender`; live or not is not checked."""
        if self._by_sender.get(ANY_ID):
            return True
        return sender is not ANY and bool(self._by_sender.get(make_id(sender)))

    def _live(
        self, sender: Any, muted_too: bool = False
    ) -> Iterator[tuple[Callable[..., Any], bool]]:
        if self._mutes and not muted_too:
            return
        for receiver, is_weak, is_async in self.roster(sender):
            strong = receiver() if is_weak else receiver
            if strong is not None:
                yield strong, is_async

    def roster(self, sender: Any) -> Roster:
        """Return the receivers for `sender` in order; the tuple never changes afterwards."""
        if self._orphans:
            self._try_drain()
        sender_id = ANY_ID if sender is ANY else make_id(sender)
        if sender_id not in self._by_sender:
            sender_id = ANY_ID  # so that passing objects as senders does not fill the cache
        rosters = self._rosters  # a change puts a new dict here: a stale one lands in the old
        roster = rosters.get(sender_id)
        if roster is None:
            with self._lock:
                roster = rosters[sender_id] = self._build(sender_id)
        return roster

    def _build(self, sender_id: Any) -> Roster:
        empty: frozenset[Any] = frozenset()
        ids = self._by_sender.get(ANY_ID, empty) | self._by_sender.get(sender_id, empty)
        # An OS signal may emit while one is being connected: then it is not there yet.
        found = [(self._order.get(i), i, self.receivers.get(i)) for i in ids]
        held = [each for each in found if each[0] is not None and each[2] is not None]
        entries = (_entry(each[2]) for each in sorted(held, key=itemgetter(0, 1)))
        return tuple(entry for entry in entries if entry is not None)

    def _clear_state(self) -> None:
        with self._changing():
            super()._clear_state()
            self._order.clear()


class OrderedNamedSignal(  # pyright: ignore[reportIncompatibleVariableOverride]  # is_muted
    OrderedSignal, NamedSignal
):
    """An `OrderedSignal` with a name: a true `blinker.NamedSignal`."""

    def __init__(self, name: str, doc: str | None = None) -> None:
        OrderedSignal.__init__(self, doc)
        self.name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def is_async(target: Any) -> bool:
    """Tell whether calling `target` gives a coroutine; objects with an async `__call__` too."""
    return iscoroutinefunction(target) or iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004 - the method itself is looked at, not whether there is one


def _entry(held: Any) -> Entry | None:
    is_weak = isinstance(held, weakref.ref)
    strong = held() if is_weak else held
    return None if strong is None else Entry(held, is_weak, is_async(strong))


def _refuse_any_id(sender: Any) -> None:
    if sender is not ANY and make_id(sender) == ANY_ID:
        raise ValueError(
            f"a sender cannot be {sender!r}: blinker takes it for any sender; use a label"
        )
