"""A handler that was written once has the same effect in each loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from .effects import EFFECTS
from .test_any_loop import LOOPS, TOLERANCE, train_by, trained_by


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each number and text in a nesting, with where it is."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from numbers(part, f"{path}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield f"{path}.length", len(value)
        for place, part in enumerate(value):
            yield from numbers(part, f"{path}[{place}]")
    else:
        yield path, value


def differences(one: Any, other: Any) -> list[str]:
    """Say where two effects differ by more than the tolerance."""
    ours, theirs = dict(numbers(one)), dict(numbers(other))
    return [
        f"{key}: {ours.get(key)!r}, {theirs.get(key)!r}"
        for key in {**ours, **theirs}
        if not _same(ours.get(key), theirs.get(key))
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(one == other)


def test_differences_are_found_at_any_depth() -> None:
    assert differences({"a": [1, {"b": 0.5}]}, {"a": [1, {"b": 0.5000001}]}) == []
    assert differences({"a": [1, {"b": 0.5}]}, {"a": [1, {"b": 0.6}]}) == [".a[1].b: 0.5, 0.6"]
    assert differences({"a": [1]}, {"a": [1, 2]}) != []


def cannot_handle(loop: str) -> Mapping[str, str]:
    """Return the handlers that a framework leaves no way for, and why."""
    found: Mapping[str, str] = getattr(trained_by(loop), "CANNOT_HANDLE", {})
    return found


@pytest.mark.parametrize("handler", EFFECTS)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_handler_has_the_same_effect_as_in_ours(handler: str, loop: str, tmp_path: Path) -> None:
    effect = EFFECTS[handler]
    folders = [tmp_path / "ours", tmp_path / "theirs"]
    for folder in folders:
        folder.mkdir()
    expected = effect(train_by("fit"), folders[0])
    found = differences(expected, effect(train_by(loop), folders[1]))
    if handler in cannot_handle(loop):
        assert found != [], "it has the same effect: it is no exception any more"
    else:
        assert found == []
