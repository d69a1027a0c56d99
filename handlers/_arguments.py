"""What handlers are told by users alike: on which signals, when, and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Integral, Real

from eventbus import Declaration, Filter

__all__ = ["On", "Signal", "When", "count_given", "number_given", "signals_given", "whole_given"]

Signal = str | Declaration[...]
"""One signal, by its name or as it was declared."""

On = Signal | Iterable[Signal]
"""One signal or several."""

When = Filter | Callable[..., object]
"""A filter, or what names fields and says with them whether a handler is due."""


def signals_given(on: On) -> tuple[str, ...]:
    """Return the names of one signal or of several.

    Raises
    ------
    TypeError
        It is something else.
    ValueError
        It is none.

    Examples
    --------
    >>> from eventbus.handlers._arguments import signals_given
    >>> signals_given("epoch_finished")
    ('epoch_finished',)
    >>> signals_given(5)
    Traceback (most recent call last):
    ...
    TypeError: on= takes the name of a signal, or several; got 5
    """
    given = (on,) if isinstance(on, str | Declaration) or not isinstance(on, Iterable) else (*on,)
    if not given:
        raise ValueError("on= names at least one signal; got none")
    for each in given:
        if not isinstance(each, str | Declaration) or not each:
            raise TypeError(f"on= takes the name of a signal, or several; got {on!r}")
    return tuple(each if isinstance(each, str) else each.name for each in given)


def number_given(owner: str, name: str, value: object) -> None:
    """Refuse what is no number.

    Raises
    ------
    TypeError
        It is none.

    Examples
    --------
    >>> from eventbus.handlers._arguments import number_given
    >>> number_given("EMA", "decay", "0.9")
    Traceback (most recent call last):
    ...
    TypeError: EMA: decay is a number; got '0.9'
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{owner}: {name} is a number; got {value!r}")


def whole_given(owner: str, name: str, value: object) -> int:
    """Refuse what is no whole number.

    Raises
    ------
    TypeError
        It is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{owner}: {name} is a whole number; got {value!r}")
    return int(value)


def count_given(owner: str, name: str, value: object, *, least: int) -> None:
    """Refuse what is no whole number, or less than what there has to be.

    Raises
    ------
    TypeError, ValueError
        One and the other.

    Examples
    --------
    >>> from eventbus.handlers._arguments import count_given
    >>> count_given("LRSchedule", "warmup_steps", -1, least=0)
    Traceback (most recent call last):
    ...
    ValueError: LRSchedule: warmup_steps is at least 0, got -1
    """
    if whole_given(owner, name, value) < least:
        raise ValueError(f"{owner}: {name} is at least {least}, got {value!r}")
