"""What a handler returned: answers, a mistake, or a value."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from eventbus.answers import Answer
from eventbus.errors import HandlerError

__all__ = ["answers_in", "refuse_mistakes"]

BOOLS = ("bool", "torch.bool")
"""The names of their `dtype`."""


def answers_in(result: Any, label: str) -> list[Answer]:
    """Return the answers in what a handler returned; none where it is something else.

    Raises
    ------
    HandlerError
        Something else is among answers.
    """
    if _is_answer(result):
        return [result]
    if not isinstance(result, list | tuple) or not any(map(_is_answer, result)):
        return []
    answers = [one for one in result if one is not None]
    for one in answers:
        if not _is_answer(one):
            message = f"handler {label!r} returned {one!r} among its answers"
            raise HandlerError(message, handler=label)
    return answers


def refuse_mistakes(result: Any, label: str, *, may_be_value: bool = False) -> None:
    """Refuse what looks like an answer and is none: a bool, an answer's class, a coroutine.

    Parameters
    ----------
    may_be_value
        It may be the new value of a transform, and a truth value of an array or tensor is one.
    """
    (first, *_) = result if isinstance(result, list | tuple) and result else (result,)
    if isinstance(result, bool) or (not may_be_value and _is_bool_elsewhere(result)):
        text = f"{result}, which decides nothing: return Stop('why'), or None"
    elif isinstance(first, type) and issubclass(first, Answer):
        text = f"the class {first.__name__}: return {first.__name__}('why')"
    elif isinstance(result, Coroutine):
        result.close()  # else Python warns that it was never awaited
        text = "a coroutine: the bus awaits nothing, write a plain function"
    else:
        return
    raise HandlerError(f"handler {label!r} returned {text}", handler=label)


def _is_answer(result: Any) -> bool:
    return issubclass(type(result), Answer)  # isinstance would believe a Mock


def _is_bool_elsewhere(result: Any) -> bool:
    """Tell whether this is a truth value of NumPy's or torch's; nothing is read, or imported."""
    if not (hasattr(type(result), "ndim") and hasattr(type(result), "dtype")):
        return False  # nor is anything asked of what makes its attributes up
    return result.ndim == 0 and str(result.dtype) in BOOLS
