"""What the bus raises, and how it words a mistake.

The tree::

    EventBusError
    ├── SignalError      a signal that is not known, or used in the wrong way
    │   └── LoopError    a loop that breaks the rules of the vocabulary (`eventbus.testing`)
    ├── FieldError       a field that no signal carries, or that the loop did not send
    ├── HandlerError     a callable that cannot be a handler, or answered with nonsense
    └── AttachError      attached twice, nothing to attach, two states under one name

A wrong argument (`every(0)`, a sender that is no label) is an ordinary `ValueError` or `TypeError`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

__all__ = [
    "AttachError",
    "EventBusError",
    "FieldError",
    "HandlerError",
    "LoopError",
    "SignalError",
]


class EventBusError(Exception):
    """The root of all that the bus itself raises.

    Attributes
    ----------
    handler, signal, field : str or None
        The culprits, where there are such.

    Examples
    --------
    >>> from eventbus import EventBus, EventBusError
    >>> try:
    ...     EventBus().emit("epoch_finishd", epoch=1)
    ... except EventBusError as error:
    ...     print(error.signal)
    epoch_finishd
    """

    def __init__(
        self,
        message: str,
        *,
        handler: str | None = None,
        signal: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.handler = handler
        self.signal = signal
        self.field = field


class SignalError(EventBusError):
    """A signal is not known, is near a declared name, or is used in the wrong way.

    Examples
    --------
    >>> from eventbus import EventBus, SignalError
    >>> try:
    ...     EventBus().on("batch_finishd")(print)
    ... except SignalError as error:
    ...     print(error)
    unknown signal 'batch_finishd': did you mean 'batch_finished'? \
To use a name of your own that is this near, declare it with @bus.declare
    """


class LoopError(SignalError, AssertionError):
    """A loop breaks the rules of the vocabulary; raised by `eventbus.testing` alone.

    Also an `AssertionError`: in a test it is a failure.

    Attributes
    ----------
    violations : tuple of Violation

    Examples
    --------
    >>> from eventbus.testing import LoopError, check_loop
    >>> try:
    ...     check_loop(lambda bus: None).raise_if_any()
    ... except LoopError as error:
    ...     print(error.violations[0].rule)
    run
    """

    def __init__(self, message: str, violations: Sequence[Any] = ()) -> None:
        super().__init__(message, signal=violations[0].signal if violations else None)
        self.violations = tuple(violations)


class FieldError(EventBusError, TypeError):
    """A field is asked for or sent that the signal does not carry, or was not sent.

    Also a `TypeError`: that is what Python itself calls an argument that does not fit.

    Examples
    --------
    >>> from eventbus import EventBus, FieldError
    >>> try:
    ...     EventBus().on("epoch_finished")(lambda epohc: None)
    ... except FieldError as error:
    ...     print(error.field)
    epohc
    """


class HandlerError(EventBusError):
    """A callable cannot be a handler, or what it returned is not an answer.

    Examples
    --------
    >>> from eventbus import EventBus, HandlerError
    >>> async def later(epoch): ...
    >>> try:
    ...     EventBus().on("epoch_finished")(later)
    ... except HandlerError as error:
    ...     print(error)
    handler 'later' is async: the bus calls handlers on the loop's thread and awaits nothing; \
write a plain function
    """


class AttachError(EventBusError):
    """Something is attached twice, has nothing to attach, or clashes with another's state.

    Examples
    --------
    >>> from eventbus import AttachError, EventBus
    >>> try:
    ...     EventBus().attach(object())
    ... except AttachError as error:
    ...     print(error)
    nothing to attach: object has no method marked with @eventbus.handles and no state_dict
    """


_ELSEWHERE = {"iteration": "step", "global_step": "step"}
"""Fields that other frameworks call so, and no likeness finds."""


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Word a suggestion (`"; did you mean 'loss'?"`), empty where nothing is near."""
    other = _ELSEWHERE.get(name)
    near = other if other in known else nearest(name, known, cutoff=0.6)
    return f"; did you mean {near!r}?" if near else ""


def nearest(name: str, known: Iterable[str], *, cutoff: float) -> str | None:
    """Return the known name that is most like `name`, None where none is near."""
    from difflib import get_close_matches  # needed only where something is wrong

    near = get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return near[0] if near else None
