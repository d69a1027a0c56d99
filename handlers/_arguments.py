"""What handlers are told by users alike: where to write, and on which signals."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from eventbus import Declaration

__all__ = ["Signal", "path_given", "signals_given"]

Signal = str | Declaration[...]


def path_given(owner: str, path: object) -> str:
    """Return a path as text, from the root: the process may go elsewhere before it is used.

    Raises
    ------
    TypeError
        It is none.

    Examples
    --------
    >>> from eventbus.handlers._arguments import path_given
    >>> path_given("CSVLog", 5)
    Traceback (most recent call last):
    ...
    TypeError: CSVLog takes a path, a string or a pathlib.Path; got 5
    """
    given = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(given, str):
        raise TypeError(f"{owner} takes a path, a string or a pathlib.Path; got {path!r}")
    return str(Path(given).absolute())


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
