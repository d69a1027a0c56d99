"""The names of a Keras model's weights in torch's state, when it is made a second time.

Keras numbers layers through a whole process, so each making of a model has other names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

__all__ = ["names_followed"]

_PART = re.compile(r"(.*?)(?:_(\d+))?")


def names_followed(model: Any) -> RemovableHandle:
    """Have `load_state_dict` of a model take what another making of it gave, too.

    Until the handle that is returned is removed, or left as a context.

    Examples
    --------
    >>> import keras
    >>> def made():
    ...     return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model, again = made(), made()
    >>> with names_followed(again):
    ...     again.load_state_dict(model.state_dict())
    <All keys matched successfully>
    """
    # torch's public one is new in 2.5.
    handle: RemovableHandle = model._register_load_state_dict_pre_hook(_follow, with_module=True)
    return handle


def _follow(model: Any, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Give the values their names in this model; leave alone what is of another model."""
    own = model.state_dict(prefix=prefix)
    given = {name: value for name, value in state.items() if name.startswith(prefix)}
    if given.keys() != own.keys() and _same_but_for_numbers(given, own):
        for name in given:
            del state[name]
        values = [given[name] for name in _in_order(given)]
        state.update(zip(_in_order(own), values, strict=True))


def _same_but_for_numbers(given: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    if len(given) != len(own):
        return False
    pairs = zip(_in_order(given), _in_order(own), strict=True)
    return all(
        _words(old) == _words(new) and given[old].shape == own[new].shape for old, new in pairs
    )


def _in_order(names: Mapping[str, Any]) -> list[str]:
    """Sort names as Keras made them: `dense_10` comes after `dense_9`, and `dense` is the first."""
    return sorted(names, key=_parts)


def _words(name: str) -> list[str]:
    return [word for word, _ in _parts(name)]


def _parts(name: str) -> list[tuple[str, int]]:
    found = [_PART.fullmatch(part) for part in re.split(r"[/.]", name)]
    return [(match[1], int(match[2] or 0)) for match in found if match is not None]
