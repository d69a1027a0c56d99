"""What a single emission carries: the fields that it must have, and of which type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from eventbus.conformance.place import Seen, Tell, count
from eventbus.declaration import Declaration
from eventbus.signals import STANDARD

__all__ = ["attached_to_graph", "check_fields", "is_number"]

EXPECTED: Mapping[str, tuple[str, ...]] = {
    "backward_finished": ("loss",),
    "batch_finished": ("metrics",),
    "batch_skipped": ("reason",),
    "epoch_finished": ("metrics", "complete"),
    "epoch_interrupted": ("reason", "metrics"),
    "run_failed": ("epoch", "step"),
    "run_finished": ("epoch", "step", "metrics"),
    "validation_done": ("metrics",),
    "validation_interrupted": ("reason", "metrics"),
}
"""Fields that a declaration lets be absent, for scripts and tests, and that handlers rely on."""


def check_fields(seen: Seen, declaration: Declaration[...] | None, tell: Tell) -> None:
    """Tell of each field that is missing, unknown or of the wrong type."""
    if declaration is None:
        return
    for name in _missing(seen, declaration):
        tell(seen, "fields", f"came without {name!r}")
    for name, value in seen.fields.items():
        if name not in declaration.fields:
            tell(seen, "fields", f"carries {name!r}, which it does not declare")
        elif seen.name in STANDARD:
            for complaint in _complaints(name, value, declaration):
                tell(seen, "fields", complaint)


def _missing(seen: Seen, declaration: Declaration[...]) -> Iterator[str]:
    expected = EXPECTED.get(seen.name, ())
    for name, parameter in declaration.fields.items():
        is_required = parameter.default is parameter.empty and name not in seen.fields
        if is_required or (name in expected and seen.fields.get(name) is None):
            yield name


def _complaints(name: str, value: Any, declaration: Declaration[...]) -> Iterator[str]:
    if name in ("loss", "outputs", "targets") and attached_to_graph(value):
        yield f"{name!r} has its graph attached, which keeps it in memory: detach it"
    expected, fits = TYPES.get(name, ("", _anything))
    if value is None and declaration.fields[name].default is None:
        return
    if not fits(value):
        yield f"{name!r} is to be {expected}; got {_shown(value)}"


def attached_to_graph(value: Any, depth: int = 4) -> bool:
    """Tell whether a tensor, or one nested in tuples, lists and mappings, is not detached."""
    if getattr(value, "requires_grad", False) is True:
        return True
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple) or depth == 0:
        return False
    return any(attached_to_graph(part, depth - 1) for part in value)


def is_number(value: Any) -> bool:
    """Tell whether a value is a number or a tensor of one; nothing is read of the device."""
    if isinstance(value, bool | str | bytes) or not hasattr(type(value), "__float__"):
        return False
    size = getattr(value, "numel", None)
    return not callable(size) or size() == 1


def _is_duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_count(least: int) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        number = count(value)
        return number is not None and number >= least

    return fits


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _anything(value: Any) -> bool:
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"a {type(value).__name__}"


_FROM_0 = ("an int from 0", _is_count(0))
_FROM_1 = ("an int from 1", _is_count(1))
_TEXT = ("a str that is not empty", _is_text)
_SECONDS = ("seconds, a float from 0", _is_duration)
_MAPPING = ("a mapping", lambda value: isinstance(value, Mapping))

TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "epoch": _FROM_0,
    "step": _FROM_0,
    "epochs": _FROM_0,
    "steps": _FROM_0,
    "round": _FROM_1,
    "batch_index": _FROM_1,
    "batch_size": _FROM_1,
    "name": _TEXT,
    "reason": _TEXT,
    "resumed_from": _TEXT,
    "handler": _TEXT,
    "signal": _TEXT,
    "tag": _TEXT,
    "path": _TEXT,
    "duration_s": _SECONDS,
    "data_wait_s": _SECONDS,
    "metrics": _MAPPING,
    "learning_rates": _MAPPING,
    "loss": ("a number or a tensor of one", is_number),
    "complete": ("True or False", lambda value: isinstance(value, bool)),
    "exception": ("an exception", lambda value: isinstance(value, BaseException)),
    "outcome": (
        '"completed", "stopped" or "failed"',
        lambda value: value in ("completed", "stopped", "failed"),
    ),
}
"""Fields of the standard signals that have a plain type: in words, and the test."""
