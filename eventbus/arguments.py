"""Calls with wrong arguments, told in the words of whoever wrote them.

Python names the function as it is defined, `HandlersSide.on()` or `Request.__init__()`, which is
not what was written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from eventbus.errors import did_you_mean

__all__ = ["called_as"]

P = ParamSpec("P")
R = TypeVar("R")


def called_as(name: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a method with a missing or an unknown argument say what it is called and what it takes.

    Parameters
    ----------
    name
        What people write; None for the constructor of a class and its children: theirs.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> EventBus().on("epoch_finished", prioirty=5)
    Traceback (most recent call last):
    ...
    TypeError: bus.on takes no 'prioirty'; did you mean 'priority'? \
(it takes: when, priority, sender, name, on_error, background)
    """

    def put(method: Callable[P, R]) -> Callable[P, R]:
        _, *parameters = inspect.signature(method).parameters.values()

        @wraps(method)
        def call(*args: P.args, **keywords: P.kwargs) -> R:
            _check(name or type(args[0]).__name__, parameters, len(args) - 1, keywords)
            return method(*args, **keywords)

        return call

    return put


def _check(
    called: str,
    parameters: Sequence[inspect.Parameter],
    by_position: int,
    keywords: Mapping[str, Any],
) -> None:
    named = {one.name: one for one in parameters if one.kind is not one.VAR_POSITIONAL}
    placed = [one.name for one in named.values() if one.kind is not one.KEYWORD_ONLY]
    if by_position > len(placed) and len(named) == len(parameters):
        by_name = ", ".join(f"{name}=" for name in named if name not in placed)
        rest = f"; the others by name: {by_name}" if by_name else ""
        raise TypeError(f"{called} takes {', '.join(placed) or 'nothing'} by position{rest}")
    for name in keywords:
        if name not in named:
            known = ", ".join(named)
            hint = did_you_mean(name, named)
            raise TypeError(f"{called} takes no {name!r}{hint} (it takes: {known})")
    for name in list(named)[by_position:]:
        if name not in keywords and named[name].default is inspect.Parameter.empty:
            raise TypeError(f"{called} needs {name!r}: {called}({name}=...)")
