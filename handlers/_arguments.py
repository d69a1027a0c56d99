"""What handlers are told by users alike: on which signals."""

from __future__ import annotations

from collections.abc import Iterable

from eventbus import Declaration

__all__ = ["Signal", "signals_given"]

Signal = str | Declaration[...]


def signals_given(on: Signal | Iterable[Signal]) -> tuple[str, ...]:
    """Return the names of one signal or of several.

    Raises
    ------
    TypeError
        It is something else.

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
    for each in given:
        if not isinstance(each, str | Declaration) or not each:
            raise TypeError(f"on= takes the name of a signal, or several; got {on!r}")
    return tuple(each if isinstance(each, str) else each.name for each in given)
