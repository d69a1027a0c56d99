"""One signal as one emitter emits it: interpreted at first, compiled once its handlers are settled.

`Port.emit` interprets (`dispatch`). Once the handlers have stayed the same for a few emissions, a
function made for them (`compiled`) is put in front of it; any change of who listens takes it away.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias

from eventbus import dispatch
from eventbus.answers import Answers
from eventbus.frames import retire, surrounding

if TYPE_CHECKING:
    from types import FrameType

    from eventbus.compiled import ByName
    from eventbus.emitter import Emitter
    from eventbus.event import Event
    from eventbus.event_signal import EventSignal
    from eventbus.plan import Plan

__all__ = ["DECLINED", "Port", "Transform"]

P = ParamSpec("P")

Transform: TypeAlias = Callable[[Any, dict[str, Any]], Any]
"""Takes a value and the fields in a dict; returns what handlers made of it, or `DECLINED`."""

DECLINED: Any = object()
"""What a settled transform returns for fields, or at a moment, that it was not made for."""

WARM = 8
"""So many emissions with the same handlers before a function is made for them."""


class Port(Generic[P]):
    """Emits one signal for one emitter. Made by `Emitter.signal`.

    Attributes
    ----------
    emitter : Emitter
    signal : EventSignal

    Examples
    --------
    >>> from eventbus import EventBus
    >>> loop = EventBus().bind(sender="train")
    >>> epoch_started = loop.signal("epoch_started")
    >>> epoch_started.emit(epoch=1, step=0).stop is None
    True
    """

    def __init__(self, emitter: Emitter, signal: EventSignal[P]) -> None:
        self.emitter = emitter
        self.signal = signal
        self._settled_as: tuple[Any, ...] = ()
        self._made: Callable[P, Answers] | None = None
        self.reset()

    def reset(self) -> None:
        """Interpret again: who listens has changed."""
        self._plan: Plan | None = None
        self._runs = 0
        self.settled = False
        self._put(None)
        for key in self._settled_as:  # not what it goes by now: it may be declared anew meanwhile
            self.emitter.settled.pop(key, None)
            self.emitter.transforms.pop(key, None)

    def settle(self, emit: Callable[P, Answers], by_name: ByName) -> None:
        """Use functions that were made for the handlers of the moment."""
        self._put(emit)
        self.settle_by_name(by_name)
        self.settled = True

    def settle_by_name(self, by_name: ByName) -> None:
        """Use this one where the signal is given by name, with its fields in a dict."""
        self.emitter.settled.update(dict.fromkeys(self._keys(), by_name))

    def _keys(self) -> tuple[Any, ...]:
        """Return by what the emitter finds it; `reset` takes those away again."""
        signal = self.signal
        self._settled_as = (signal.name, signal, signal.declaration, *signal.former)
        return self._settled_as

    def _put(self, emit: Callable[P, Answers] | None) -> None:
        before, self._made = self._made, emit
        shadow(self, emit, before)
        if isinstance(before, FunctionType):
            retire(before, self)

    def origin(self, outer: Event | None) -> Emitter:
        """Return whose emission it is, inside of `outer`."""
        return self.emitter

    def emit(self, /, *args: P.args, **fields: P.kwargs) -> Answers:
        """Emit the fields, given by name; return all pending answers."""
        if args:
            raise self._not_by_name(args[0])
        made: Callable[..., Answers] | None = self._made
        if made is not None:  # `emit = port.emit` was kept from before
            return made(**fields)
        self.signal.refuse_context(fields)
        return self.interpret(fields, sys._getframe(1))

    def _not_by_name(self, value: Any) -> TypeError:
        return TypeError(f"the fields of {self.signal.name!r} are given by name; got {value!r}")

    def emit_settled(self, fields: dict[str, Any]) -> Answers | None:
        """Emit by the compiled function; None where that does not take these fields."""
        emit: Callable[..., Answers] | None = self._made
        try:
            return emit(**fields) if emit is not None else None
        except TypeError as error:  # context, or a slip
            if not _is_of_the_call(error):
                raise
        return None

    def slow(self, fields: dict[str, Any], by_position: Any = ...) -> Answers:
        """Emit what the compiled function leaves to the interpreter."""
        if by_position is not ...:
            raise self._not_by_name(by_position)
        # The compiled function's own frame is no emission that this one could be inside of.
        return self.interpret(fields, sys._getframe(1).f_back)

    def interpret(self, fields: dict[str, Any], start: FrameType | None) -> Answers:
        """Emit by interpreting, from the code in frame `start`."""
        outer = surrounding(self.emitter.bus, start)
        shape = tuple(fields)  # as they were sent: a nested emission is filled in
        answers = dispatch.emit(self.signal, self.origin(outer), fields, outer)
        if not self.settled:
            self._warm_up(shape)
        return answers

    def transform(self, value: Any, /, **fields: Any) -> Any:
        """Let handlers replace `value`; return what they made of it."""
        settled = self.emitter.transforms.get(self.signal)
        made = DECLINED if settled is None else settled(value, fields)
        if made is not DECLINED:
            return made
        return self.transform_slowly(value, fields, sys._getframe(1))

    def transform_slowly(self, value: Any, fields: dict[str, Any], start: FrameType | None) -> Any:
        """Transform what no function was made for, or not for this moment, from code in `start`."""
        plan = self.signal.plan(self.emitter)
        if not plan and self._is_kept(fields):
            self.signal.install_transform(self, plan, self._keeper())
            return value
        outer = surrounding(self.emitter.bus, start)
        shape = (self.signal.value or "", *fields)  # as they were sent
        made = dispatch.transform(self.signal, self.origin(outer), value, fields, outer)
        if not self.settled:
            self._warm_up(shape)
        return made

    def _is_kept(self, fields: dict[str, Any]) -> bool:
        """Tell whether a value stays what it is where nobody listens: no answer is pending."""
        signal, emitter, underway = self.signal, self.emitter, self.emitter.bus.underway
        # Inside of another run's emission it may be for that run.
        return (
            emitter.pending.quiet
            and not underway.busy
            and signal.value is not None
            and signal.value not in fields
            and not signal.has_context(fields)
        )

    def _keeper(self) -> Transform:
        """Return what keeps the values of this transform, to which nobody listens."""
        declaration = self.signal.declaration
        assert declaration is not None, "it has a value"
        return _keeping(self, frozenset(declaration.fields.keys() - {declaration.value}))

    def settle_transform(self, transform: Transform) -> None:
        """Use this one where the signal is given by name, with its fields in a dict."""
        self.emitter.transforms.update(dict.fromkeys(self._keys(), transform))
        self.settled = True

    def _warm_up(self, shape: tuple[str, ...]) -> None:
        plan = self.signal.plan(self.emitter)
        if plan is not self._plan:
            self._plan, self._runs = plan, 0
        self._runs += 1
        if self._runs > WARM:
            self._compile(plan, shape)

    def _compile(self, plan: Plan, shape: tuple[str, ...]) -> None:
        try:
            from eventbus.compiled import compile_for  # late: importing eventbus stays quick
        except ImportError:  # an OS signal emits while this is being imported: the next one will
            return
        compile_for(self, plan, shape)

    def __reduce__(self) -> tuple[Any, ...]:
        from eventbus.inert import inert_port

        return inert_port, (self.emitter.sender, self.signal.name)


def _keeping(port: Port[...], names: frozenset[str]) -> Transform:
    """Return a transform to which nobody listens: the value stays what it is."""
    pending, underway = port.emitter.pending, port.emitter.bus.underway

    def keep(
        value: Any,
        fields: dict[str, Any],
        _port: Port[...] = port,  # held: it is what takes this away again
    ) -> Any:
        if pending.quiet and not underway.busy and fields.keys() <= names:
            return value
        return DECLINED

    return keep


def _is_of_the_call(error: TypeError) -> bool:
    """Tell whether arguments did not fit the compiled function itself, nothing that it called."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


class RootPort(Port[P]):
    """The bus's own: `signal.emit` itself. Inside a handler it emits for that handler's run."""

    def _put(self, emit: Callable[P, Answers] | None) -> None:
        shadow(self.signal, emit, self._made)
        super()._put(emit)  # no frame between `signal.emit` and the handlers

    def origin(self, outer: Event | None) -> Emitter:
        """Return the bus's emitter, or that of the emission that this one is inside of."""
        return self.emitter if outer is None else outer.emitter


def shadow(thing: Any, emit: Callable[..., Answers] | None, before: Any = None) -> None:
    """Put a function in front of the method `emit`, or take the one that is there away again.

    The method itself is not kept on the instance: a bound method there would be a cycle, and hold
    the run's model until the garbage collector comes by. Nor is `vars` asked, here or in `wire`:
    an instance whose `__dict__` was never asked for finds its attributes faster.
    """
    if emit is not None:
        thing.emit = emit
    elif before is not None:
        del thing.emit
