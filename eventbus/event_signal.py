"""A signal of a bus: a true blinker signal that also knows its declaration and its plans."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from eventbus.answers import Answer, Answers, SkipBatch, Stop, StopEpoch
from eventbus.declaration import CONTEXT, RESERVED, Declaration
from eventbus.errors import FieldError, did_you_mean
from eventbus.event import Event
from eventbus.inert import warn_if_inert
from eventbus.plan import Plan, make_plan
from eventbus.port import Port, RootPort, Transform
from eventbus.subscription import Receiver
from eventbus.wire import OrderedNamedSignal, Roster

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.compiled import ByName
    from eventbus.emitter import Emitter

__all__ = ["EventSignal"]

P = ParamSpec("P")
Kinds = tuple[type[Answer], ...]

# Which pending answers have served when one of these was emitted, and which are stale before it.
ENDS: dict[str, Kinds] = {
    "batch_finished": (SkipBatch,),
    "batch_skipped": (SkipBatch,),
    "epoch_finished": (StopEpoch, SkipBatch),
    "epoch_interrupted": (StopEpoch, SkipBatch),
    "run_closed": (Stop, StopEpoch, SkipBatch),
}
EPOCHS: Kinds = (StopEpoch, SkipBatch)
BEGINS: dict[str, Kinds] = {
    "run_opened": (Stop, StopEpoch, SkipBatch),
    "epoch_started": (StopEpoch, SkipBatch),
    "batch_loaded": (SkipBatch,),
}

SHAPES = 256
"""So many sets of field names are remembered as checked, for each signal."""


class EventSignal(OrderedNamedSignal, Generic[P]):
    """One signal on one bus; a `blinker.NamedSignal`. Made by `bus.signal`.

    Attributes
    ----------
    name : str
    bus : EventBus
    declaration : Declaration or None
        None for a name that was just emitted or subscribed to.
    former : list of Declaration
        Those that it had before, as when a notebook's cell was run again: they still name it.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.signals import epoch_started
    >>> bus = EventBus()
    >>> signal = bus.signal(epoch_started)
    >>> receiver = signal.connect(lambda sender, **fields: print(sender, fields), weak=False)
    >>> _ = signal.emit(epoch=1, step=0)
    None {'epoch': 1, 'step': 0}
    >>> _ = signal.send("by hand", epoch=2, step=10)
    by hand {'epoch': 2, 'step': 10}
    """

    def __init__(self, bus: EventBus, name: str, declaration: Declaration[P] | None = None) -> None:
        self.bus = bus
        self._plans: dict[Any, Plan] = {}
        self._ports: list[weakref.ref[Port[...]]] = []
        self._shapes: dict[tuple[str, ...], bool] = {}
        super().__init__(name, declaration.doc if declaration else None)
        self.declaration = declaration
        self.former: list[Declaration[...] | None] = []
        self.ends = ENDS.get(name, ())
        self.begins = BEGINS.get(name, ())
        self._root_port = RootPort(bus.root, self)
        self._ports.append(weakref.ref(self._root_port))

    @property
    def value(self) -> str | None:
        """The field that handlers may replace, where this is a transform."""
        return self.declaration.value if self.declaration is not None else None

    def emit(self, /, *args: P.args, **fields: P.kwargs) -> Answers:
        """Emit from the bus itself: the typed path for hot loops.

        It may be kept, `emit = signal.emit`: handlers that come later are called, too. What is
        pickled keeps the signal itself: a function does not pickle.

        Returns
        -------
        Answers
            All that are pending.

        Raises
        ------
        FieldError, TypeError
            The signal carries no such field.
        """
        return self._root_port.emit(*args, **fields)

    def declare(self, declaration: Declaration[P]) -> None:
        """Take on a declaration; who is subscribed already is held against it."""
        before = self.declaration
        self.declaration = declaration
        self.former = [one for one in (*self.former, before) if one not in (None, declaration)]
        try:
            fresh = {held: Receiver(held.subscription, self) for held in self.own_receivers()}
        except Exception:
            self.declaration = before
            raise
        for held, receiver in fresh.items():  # each keeps its place: the subscription's
            receiver.follow(held)
            self.disconnect(held)
            receiver.plug()
        self._shapes = {}
        self.changed()

    def own_receivers(self) -> list[Receiver]:
        """Return the receivers that subscriptions of the bus have here, in no order."""
        return [held for held in list(self.receivers.values()) if isinstance(held, Receiver)]

    def plain_event(self, sender: Any, fields: dict[str, Any]) -> Event:
        """Make the event for blinker's `send`, whose sender may be any object."""
        emitter = self.bus.here()
        if isinstance(sender, str) and sender:
            emitter = emitter.labelled(sender)
        return Event(self, emitter, fields)

    # -- spans: what begins and ends with this signal

    def begin(self, emitter: Emitter) -> None:
        """Drop answers that are stale; note that a run is open."""
        if self.name != "run_opened":
            emitter.pending.begin(self.begins)
            return
        warn_if_inert(self.bus)
        # A run that was opened before, and never closed, leaves its stops behind. Those of a new
        # one are its own: an OS signal may have come before its loop began.
        is_again = emitter in self.bus.open_runs
        emitter.pending.begin(self.begins if is_again else EPOCHS)
        self.bus.mark_open(emitter)

    def end(self, emitter: Emitter) -> None:
        """Drop answers that have served; note that a run is closed."""
        emitter.pending.end(self.ends)
        if self.name == "run_closed":
            self.bus.mark_closed(emitter)
            emitter.let_go()

    # -- plans: what an emission runs, by sender; dropped at once on any change

    def plan(self, emitter: Emitter) -> Plan:
        """Return who is called when this emitter emits, in order."""
        plans = self._plans  # a change puts a new dict here: a stale plan lands in the dropped one
        plan = plans.get(emitter.reach)
        if plan is None:
            plan = plans[emitter.reach] = make_plan(self, emitter)
        return plan

    def port_for(self, emitter: Emitter) -> Port[...]:
        """Return this signal as `emitter` emits it."""
        if emitter is self.bus.root:
            return self._root_port
        port = Port(emitter, self)
        for ref in tuple(self._ports):
            if ref() is None:
                with suppress(ValueError):  # another thread was faster
                    self._ports.remove(ref)
        self._ports.append(weakref.ref(port))
        return port

    def install(
        self, port: Port[...], plan: Plan, emit: Callable[..., Answers], by_name: ByName
    ) -> None:
        """Have a port use functions made for a plan, if that is still the plan."""
        with self._held():
            if self._plans.get(port.emitter.reach) is plan:
                port.settle(emit, by_name)

    def install_by_name(self, port: Port[...], plan: Plan, by_name: ByName) -> None:
        """Have a port that is settled use this one by name, if the plan is still the plan."""
        with self._held():
            if port.settled and self._plans.get(port.emitter.reach) is plan:
                port.settle_by_name(by_name)

    def install_transform(self, port: Port[...], plan: Plan, transform: Transform) -> None:
        """Have a port use a function made for this transform, if the plan is still the plan."""
        with self._held():
            if self._plans.get(port.emitter.reach) is plan:
                port.settle_transform(transform)

    def changed(self) -> None:
        """Drop what was built from who was connected."""
        with self._changing():
            pass

    def _drop(self) -> None:
        super()._drop()
        self._plans = {}
        for ref in tuple(self._ports):
            port = ref()
            if port is not None:
                port.reset()

    def _rank(self, receiver: Any, priority: int) -> tuple[int, int]:
        if isinstance(receiver, Receiver):
            return -receiver.subscription.priority, receiver.subscription.sequence
        return -priority, self.bus.registry.next_sequence()

    def _build(self, sender_id: Any) -> Roster:
        return () if self.bus.inert else super()._build(sender_id)

    # -- fields

    def has_context(self, fields: dict[str, Any]) -> bool:
        """Check the names sent; tell whether some of them are context, given with this emission."""
        shape = tuple(fields)
        known = self._shapes.get(shape)
        if known is None:
            known = self._look_at(shape)
            if len(self._shapes) >= SHAPES:  # names made up at run time never end
                self._shapes.clear()
            self._shapes[shape] = known
        return known

    def refuse_context(self, fields: dict[str, Any]) -> None:
        """Refuse context on the typed path, which takes the declared fields alone."""
        if self.declaration is not None and self.has_context(fields):
            given = ", ".join(name for name in fields if name in CONTEXT)
            raise FieldError(
                f"signal {self.name!r}: context ({given}) is given to bus.bind, or by name: "
                f"bus.emit({self.name!r}, ...)",
                signal=self.name,
            )

    def _look_at(self, shape: tuple[str, ...]) -> bool:
        if self.declaration is None:
            self._refuse_reserved(shape)
            return False
        declared = self.declaration.fields
        self._refuse_reserved(name for name in shape if name not in declared)
        for name in shape:
            if name not in declared and name not in CONTEXT:
                hint = did_you_mean(name, (*declared, *CONTEXT))
                raise FieldError(
                    f"signal {self.name!r} carries no field {name!r}{hint} "
                    f"(its fields: {', '.join(declared) or 'none'})",
                    signal=self.name,
                    field=name,
                )
        return any(name in CONTEXT for name in shape)

    def _refuse_reserved(self, shape: Iterable[str]) -> None:
        for name in shape:
            if name in RESERVED:
                hint = ": bus.bind(sender=...) sets it for a run" if name == "sender" else ""
                message = f"signal {self.name!r}: {name!r} is given by the bus, not by the loop"
                raise FieldError(message + hint, signal=self.name, field=name)

    def __reduce__(self) -> tuple[Any, ...]:
        from eventbus.inert import inert_signal

        return inert_signal, (self.name,)
