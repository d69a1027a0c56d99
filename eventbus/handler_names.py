"""What a handler is called in messages, tables and checkpoints."""

from __future__ import annotations

import functools
import operator
import sys
from types import FunctionType, MethodType, ModuleType
from typing import Any

from eventbus.marks import MarkedCall

__all__ = [
    "check_label",
    "check_own_name",
    "class_of",
    "defines",
    "is_of",
    "is_same",
    "label_of",
    "name_of",
    "redefinition_key",
]


def name_of(thing: Any) -> str:
    """Return a function's name, a module's, or the name of an object's class."""
    if isinstance(thing, functools.partial):
        return name_of(getattr(thing, "__wrapped__", thing.func))
    if isinstance(thing, MethodType):
        return type(thing.__self__).__name__
    if isinstance(thing, ModuleType):
        return thing.__name__.rpartition(".")[2]
    if isinstance(thing, FunctionType) or hasattr(thing, "__qualname__"):
        return str(thing.__qualname__).rpartition("<locals>.")[2]
    return type(thing).__name__


def label_of(handler: Any) -> str:
    """Return the short name of a callable, without its class."""
    return str(getattr(handler, "__name__", name_of(handler)))


def redefinition_key(handler: Any) -> tuple[str, str] | None:
    """Return what two definitions of one function have in common, as when a cell runs again.

    None for what may well exist several times: lambdas, functions made by functions, and `_`.
    """
    if not isinstance(handler, FunctionType):
        return None
    name = handler.__qualname__
    if "<" in name or name == "_":
        return None
    return handler.__module__, name


def class_of(handler: Any) -> type | None:
    """Return the class of an object, or of the one that a method is of.

    None for functions and modules.
    """
    if isinstance(handler, functools.partial):
        return class_of(handler.func)
    if isinstance(handler, FunctionType | ModuleType | type):
        return None
    return type(handler.__self__ if isinstance(handler, MethodType) else handler)


def defines(kind: type) -> bool:
    """Tell whether a class is what its name means in its module.

    It is not where it was defined again since, and never where a function has made it: of such
    there may well be several.
    """
    module = sys.modules.get(kind.__module__)
    try:
        return operator.attrgetter(kind.__qualname__)(module) is kind
    except AttributeError:
        return False


def check_own_name(name: Any) -> None:
    """Refuse a subscription's name that is no name: it goes into checkpoints and tables."""
    if name is not None and (not isinstance(name, str) or not name):
        raise TypeError(f"name= is a non-empty string; got {name!r}")


def check_label(sender: Any) -> str | None:
    """Return a sender's label; refuse loop objects and numbers."""
    if sender is None or (isinstance(sender, str) and sender):
        return sender
    raise TypeError(f"a sender is a label, a non-empty string such as 'train'; got {sender!r}")


def is_same(held: Any, thing: Any) -> bool:
    """Tell whether two are one handler.

    A bound method is made anew each time that it is named; other equal things are still two.
    """
    return held is thing or (isinstance(thing, MethodType) and bool(held == thing))


def is_of(held: Any, thing: Any) -> bool:
    """Tell whether a handler is `thing`, stands in for it, or calls a bound method of it."""
    if is_same(held, thing) or (isinstance(held, MarkedCall) and is_same(held.target, thing)):
        return True
    while isinstance(held, functools.partial):
        held = held.func
    return isinstance(held, MethodType) and held.__self__ is thing
