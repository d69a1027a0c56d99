"""`@handles`: marks on functions and methods, found again when a thing is attached."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeVar

from eventbus.declaration import Declaration
from eventbus.errors import AttachError

__all__ = ["Mark", "find_marks", "handles", "hears_always"]

F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "__eventbus_marks__"


class Mark(NamedTuple):
    """How a function or a method is to be subscribed; None leaves the choice to the default."""

    signals: tuple[str, ...]
    when: Any = None
    priority: int | None = None
    sender: str | None = None
    name: str | None = None
    on_error: Any = None
    background: Any = None
    always: bool = False
    """What `bus.attach` is given as `when=` and `priority=` leaves it as it is."""


def handles(
    *signals: str | Declaration[...],
    when: Any = None,
    priority: int | None = None,
    sender: str | None = None,
    name: str | None = None,
    on_error: Any = None,
    background: Any = None,
) -> Callable[[F], F]:
    """Mark a function or a method for `bus.attach`; nothing is subscribed yet.

    Marks may be stacked. On a bound method it returns a marked callable to keep on the instance,
    for signals and filters that are chosen when a handler is made; it goes along where the
    instance is pickled or deep-copied. A shallow copy shares it, and cannot be attached. A mark
    with `background=False` is one that `bus.attach` refuses in the background.

    Examples
    --------
    >>> from eventbus import EventBus, every, handles
    >>> class Counter:
    ...     def __init__(self, on, when=None):
    ...         self.seen = 0
    ...         self.count = handles(on, when=when)(self.count)
    ...     def count(self): self.seen += 1
    ...     @handles("run_finished")
    ...     def report(self): print("seen", self.seen)
    >>> bus = EventBus()
    >>> handle = bus.attach(Counter("batch_finished", when=every(2)))
    >>> for step in range(1, 7): _ = bus.emit("batch_finished", epoch=1, step=step)
    >>> _ = bus.emit("run_finished", reason="completed")
    seen 3
    """
    if not signals or not all(isinstance(s, str | Declaration) for s in signals):
        raise TypeError("handles takes the names of signals: @handles('epoch_finished')")
    names = tuple(s if isinstance(s, str) else s.name for s in signals)
    return _putting(Mark(names, when, priority, sender, name, on_error, background))


def hears_always(
    *signals: str, when: Any = None, priority: int | None = None, on_error: Any = None
) -> Callable[[F], F]:
    """Mark what a handler has to hear whatever filter it acts by: `attach` leaves it alone."""
    return _putting(Mark(signals, when, priority, on_error=on_error, always=True))


def _putting(mark: Mark) -> Callable[[F], F]:
    def put(target: F) -> F:
        # on a bound method the instance's mark is in place of the class's
        stacked = () if isinstance(target, MethodType) else getattr(target, _ATTRIBUTE, ())
        return _marked(target, (mark, *stacked))  # type: ignore[no-any-return]  # same signature

    return put


class MarkedCall(functools.partial[Any]):
    """Stands in for a bound method or a partial, with marks of its own.

    A bound method takes no attributes. A partial does, but multiprocessing pickles it without them,
    so that a handler handed to a process would do nothing there. A subclass says itself how it is
    pickled: as what it stands in for, and its marks.
    """

    __wrapped__: Callable[..., Any]

    @property
    def target(self) -> Callable[..., Any]:
        """What it stands in for, and what the bus calls: that costs less than a call of this."""
        return self.__wrapped__

    @property
    def __self__(self) -> Any:
        return getattr(self.target, "__self__", None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _marked, (self.target, getattr(self, _ATTRIBUTE))


def _marked(target: Any, marks: tuple[Mark, ...]) -> Any:
    marked = target
    if isinstance(target, MethodType) or type(target) is functools.partial:
        marked = functools.update_wrapper(MarkedCall(target), target)
    setattr(marked, _ATTRIBUTE, marks)
    return marked


def find_marks(thing: Any) -> Iterator[tuple[str, Callable[..., Any], Mark]]:
    """Yield the name, the callable and the mark of each that `thing` has.

    A function and a bound method have their own; a module those of the functions defined there; an
    object those of its class's methods, in the order in which they are written, and of its own
    attributes, which win.

    Raises
    ------
    AttachError
        The object is a shallow copy of a handler.
    """
    if isinstance(thing, FunctionType | MethodType | functools.partial):
        yield from _marks_of(getattr(thing, "__name__", "partial"), thing)
    elif isinstance(thing, ModuleType):
        for name, value in vars(thing).items():
            if inspect.isfunction(value) and value.__module__ == thing.__name__:
                yield from _marks_of(name, value)
    else:
        for name, marks in _marked_attributes(thing).items():
            handler = getattr(thing, name)
            _refuse_shallow_copy(thing, name, handler)
            yield from ((name, handler, mark) for mark in marks)


def _refuse_shallow_copy(thing: Any, name: str, handler: Any) -> None:
    # It shares the marked methods, which work on the object that was copied, wherever they are
    # called from; and with them all that the two have inside. Nothing here could part them again.
    owner = handler.__self__ if isinstance(handler, MarkedCall) else thing
    if owner is thing or type(owner) is not type(thing):
        return
    if vars(owner).get(name) is handler:
        kind = type(thing).__name__
        raise AttachError(
            f"this {kind} is a shallow copy: its {name!r} works on the one that was copied; "
            f"attach copy.deepcopy(...) of that one, or another {kind}(...)",
            handler=kind,
        )


def _marks_of(name: str, value: Any) -> Iterator[tuple[str, Callable[..., Any], Mark]]:
    for mark in getattr(value, _ATTRIBUTE, ()):
        yield name, value, mark


def _marked_attributes(thing: Any) -> dict[str, tuple[Mark, ...]]:
    # Read without touching the attributes: no property runs because something is attached. A
    # method that is overridden without a mark keeps the inherited one; else it would silently
    # never be called.
    marked: dict[str, tuple[Mark, ...]] = {}
    spaces = [*map(vars, reversed(type(thing).__mro__)), getattr(thing, "__dict__", {})]
    for space in spaces:
        for name, value in space.items():
            # a static method wraps the function that is marked, or is marked itself
            wrapped = getattr(value, "__func__", None)
            marks = getattr(value, _ATTRIBUTE, getattr(wrapped, _ATTRIBUTE, None))
            if isinstance(marks, tuple):
                marked[name] = marks
    return marked
