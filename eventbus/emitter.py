"""The loop's end of the wire: a label, the run's context, and its pending answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, overload

from eventbus.answers import Answers
from eventbus.declaration import CONTEXT, Declaration
from eventbus.errors import FieldError, did_you_mean
from eventbus.handler_names import check_label
from eventbus.pending import Pending
from eventbus.port import DECLINED
from eventbus.shown import Shown

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.compiled import ByName
    from eventbus.event_signal import EventSignal
    from eventbus.port import Port, Transform

__all__ = ["Emitter"]

LABELS = 64
"""So many other labels of one run are remembered."""

P = ParamSpec("P")


class Emitter:
    """What a loop emits through; made by `bus.bind`.

    Attributes
    ----------
    bus : EventBus
    sender : str or None
        The label; handlers may ask for it and subscribe to it alone.
    context : mapping
        What handlers may name besides fields: `run_id`, `run`, `model` and so on.
    inner : bool
        True for a run inside another: it reaches only subscriptions with its `sender=`.

    Examples
    --------
    >>> from eventbus import EventBus, Stop
    >>> bus = EventBus()
    >>> @bus.on("epoch_finished")
    ... def report(epoch, model, sender): print(sender, epoch, model)
    >>> loop = bus.bind(sender="train", model="a model")
    >>> answers = loop.emit("epoch_finished", epoch=1, step=10)
    train 1 a model
    >>> answers.stop is None
    True
    """

    def __init__(
        self,
        bus: EventBus,
        sender: str | None = None,
        context: Mapping[str, Any] | None = None,
        parent: Emitter | None = None,
    ) -> None:
        self.bus = bus
        self.sender = check_label(sender)
        self.inner = parent is not None
        self.reach = (sender, self.inner)  # what a plan depends on
        self.context = MappingProxyType(_complete(dict(context or {}), sender))
        self.ports: dict[Any, Port[...]] = {}  # by name or declaration, whichever was used
        self.settled: dict[Any, ByName] = {}  # the compiled ones, likewise
        self.transforms: dict[Any, Transform] = {}  # likewise
        self._labelled: dict[str, Emitter] = {}
        self._parent = parent
        self.pending: Pending = Pending(bus.inbox, parent.pending if parent is not None else None)

    @property
    def run_id(self) -> str:
        """What tells this run from all others."""
        return str(self.context["run_id"])

    @overload
    def emit(self, signal: str | EventSignal[...], /, **fields: Any) -> Answers: ...
    @overload
    def emit(self, signal: Declaration[P], /, *args: P.args, **fields: P.kwargs) -> Answers: ...
    def emit(self, signal: Any, /, **fields: Any) -> Answers:  # type: ignore[misc]  # *args cost
        """Say what happened; handlers that are due are called before this returns.

        Returns
        -------
        Answers
            All that are pending for this run.

        Raises
        ------
        EventBusError
            An unknown field, a field that a handler names and that was not sent, a transform.
        Exception
            Whatever a handler with `on_error="raise"` raised, as itself, with a note.
        """
        emit = self.settled.get(signal)
        if emit is not None:
            answers = emit(fields)
            if answers is not None:
                return answers
        return self.emit_slowly(signal, fields)

    def emit_fields(self, signal: Any, fields: dict[str, Any]) -> Answers:
        """Emit fields that are in a dict already, which is the bus's from then on."""
        emit = self.settled.get(signal)
        if emit is not None:
            answers = emit(fields)
            if answers is not None:
                return answers
        return self.emit_slowly(signal, fields)

    def emit_slowly(self, signal: Any, fields: dict[str, Any]) -> Answers:
        """Emit fields that nobody has checked yet, and perhaps context with them."""
        port = self.signal(signal)
        answers = port.emit_settled(fields) if port.settled else None
        return port.interpret(fields, sys._getframe(1)) if answers is None else answers

    def transform(self, signal: Any, value: Any, /, **fields: Any) -> Any:
        """Let handlers replace `value`; return what they made of it."""
        settled = self.transforms.get(signal)
        if settled is not None:
            made = settled(value, fields)
            if made is not DECLINED:
                return made
        return self.signal(signal).transform_slowly(value, fields, sys._getframe(1))

    @overload
    def signal(self, signal: Declaration[P]) -> Port[P]: ...
    @overload
    def signal(self, signal: str | EventSignal[...]) -> Port[...]: ...
    def signal(self, signal: Any) -> Port[...]:
        """Return the signal as this emitter emits it, for hot loops.

        Examples
        --------
        >>> from eventbus import EventBus
        >>> loop = EventBus().bind(sender="train")
        >>> finished = loop.signal("batch_finished")
        >>> finished.emit(epoch=1, step=1).stop is None
        True
        """
        port = self.ports.get(signal)
        if port is None:
            port = self.ports[signal] = self.bus.signal(signal).port_for(self)
        return port

    def has_asked_for(self, name: str) -> bool:
        """Tell whether a signal was emitted through here, or fetched to be."""
        return any(port.signal.name == name for port in list(self.ports.values()))

    @property
    def answers(self) -> Answers:
        """All that are pending for this run now, also those given by `bus.answer`."""
        return self.pending.answers

    def let_go(self) -> None:
        """Forget the ports: they hold this emitter, and so the run's model, in a cycle."""
        ports, self.ports = self.ports, {}  # other threads may be emitting: they add to new ones
        labelled, self._labelled = self._labelled, {}
        for port in ports.values():
            port.reset()
        for other in labelled.values():
            other.let_go()

    def labelled(self, sender: str) -> Emitter:
        """Return the same run's emitter under another label."""
        other = self._labelled.get(sender)
        if other is None:
            if len(self._labelled) >= LABELS:  # labels made up at run time never end
                self.let_go()
            other = self._labelled[sender] = Emitter(self.bus, sender, parent=self._parent)
            other.context, other.pending = self.context, self.pending
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        from eventbus.inert import inert_emitter

        return inert_emitter, (self.sender,)

    def __repr__(self) -> str:
        return f"<Emitter {self.sender!r}, run {self.context['run_id']}>"


def _complete(context: dict[str, Any], sender: str | None) -> dict[str, Any]:
    for name in context:
        if name not in CONTEXT:
            hint = did_you_mean(name, CONTEXT)
            raise FieldError(
                f"{name!r} is not part of a run's context{hint} (it is: {', '.join(CONTEXT)}; "
                "put your own into config)",
                field=name,
            )
    context.setdefault("run_id", os.urandom(6).hex())
    context.setdefault("run", sender or context["run_id"])
    for one, many in (("model", "models"), ("optimizer", "optimizers")):
        _pair(context, one, many)
        if isinstance(context.get(many), dict):
            context[many] = Shown(context[many])
    return context


def _pair(context: dict[str, Any], one: str, many: str) -> None:
    # Asking for one where there is one, or for all, works whichever way they were given.
    if one in context and many not in context:
        context[many] = {one: context[one]}
    elif one not in context and len(context.get(many, ())) == 1:
        (context[one],) = context[many].values()
