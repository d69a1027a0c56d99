"""What of an emission can go into a log: numbers, text, and plain containers of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from eventbus import Event
from eventbus.failures import describe_error
from eventbus.handlers._monitor import as_number

NOT_FOR_LOGS = frozenset({"batch", "outputs", "targets", "loader", "figure", "state"})
"""Fields that are data, not facts."""

_PLAIN = frozenset({type(None), bool, float, str})
_LARGEST = int(sys.float_info.max)
_NOTHING = object()
_DEPTH = 4  # deeper than any metrics; a list that holds itself ends here


def in_order(event: Event) -> dict[str, Any]:
    """Return the fields of an emission in the order of their declaration.

    They come in the order in which they were sent, or in this one where the emission was compiled:
    a resumed run has that from another step on, and is to write the same file.
    """
    declaration, fields = event.bus.signal(event.name).declaration, event.fields
    if declaration is None:
        return dict(fields)
    return {name: fields[name] for name in declaration.fields if name in fields}


def facts(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields that can be logged, as plain Python.

    Reading a tensor of one element moves it to the host: this synchronises with its device, so call
    it only when something is due to be written.
    """
    for name, value in fields.items():
        if name not in NOT_FOR_LOGS and value is not None:
            told = plain(value)
            if told is not _NOTHING:
                yield name, told


def plain(value: Any, depth: int = _DEPTH) -> Any:
    """Return a value as numbers, text, lists and dicts; a marker where it is none of these.

    An int that is too large for a float becomes an infinity, as it does for whoever watches it.
    """
    if value is None or isinstance(value, (int, float, str)):
        return value if type(value) in _PLAIN else _unsubclassed(value)
    if isinstance(value, BaseException):
        return describe_error(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if depth and isinstance(value, Mapping):
        items = ((str(key), plain(item, depth - 1)) for key, item in value.items())
        return {key: item for key, item in items if item is not _NOTHING}
    if depth and isinstance(value, (list, tuple)):
        return [item for item in (plain(each, depth - 1) for each in value) if item is not _NOTHING]
    return _one_number(value)


def _unsubclassed(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > _LARGEST:  # json and print may refuse it
        return as_number(value, "a number")
    for kind in (int, float, str):  # an IntEnum or a numpy float64 prints as something else
        if isinstance(value, kind):
            return kind(value)
    return value


def _one_number(value: Any) -> Any:
    """Read a tensor, an array or a numpy scalar of one element."""
    size = getattr(value, "numel", None) or getattr(value, "size", None)
    count = size() if callable(size) else size
    if count != 1 or not hasattr(value, "item"):
        return _NOTHING
    read = value.item()
    return read if isinstance(read, (bool, int, float)) else _NOTHING
