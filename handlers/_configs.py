"""A run's config, whatever it was given as, for those who file it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

_EXACT = 2**53  # beyond it a float holds not every whole number
_LONGEST = 200  # characters: what is longer is data, not a setting


def settings_of(config: Any) -> dict[str, Any]:
    """Return a config as nested dicts of numbers and text.

    Mappings, dataclasses, argparse namespaces: whatever has items or attributes.

    Examples
    --------
    >>> from argparse import Namespace
    >>> from eventbus.handlers._configs import settings_of
    >>> settings_of(Namespace(lr=0.1, model={"width": 64}, _seen=[]))
    {'lr': 0.1, 'model': {'width': 64}}
    """
    return {str(name): _plain(value) for name, value in _items(config)}


def flat_settings_of(config: Any) -> dict[str, bool | float | str]:
    """Return a config as one level, names joined by dots.

    Examples
    --------
    >>> from eventbus.handlers._configs import flat_settings_of
    >>> flat_settings_of({"lr": 0.1, "model": {"width": 64}, "tags": ["a", "b"]})
    {'lr': 0.1, 'model.width': 64, 'tags': "['a', 'b']"}
    """
    return dict(_flat(settings_of(config), ""))


def _items(config: Any) -> list[tuple[Any, Any]]:
    if config is None:
        return []
    if isinstance(config, Mapping):
        return list(config.items())
    if is_dataclass(config):
        return [(each.name, getattr(config, each.name)) for each in fields(config)]
    attributes = getattr(config, "__dict__", None)
    if not attributes:
        return [("config", config)]
    return [(name, value) for name, value in attributes.items() if not name.startswith("_")]


def _plain(value: Any) -> Any:
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int | float):
        return value if abs(value) < _EXACT or isinstance(value, float) else str(value)
    return settings_of(value) if is_dataclass(value) else _spell(value)


def _spell(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _flat(settings: Mapping[str, Any], ahead: str) -> Iterator[tuple[str, bool | float | str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{ahead}{name}.")
        else:
            simple = isinstance(value, bool | int | float | str)
            yield f"{ahead}{name}", value if simple else _spell(value)
