"""What a run is given as its context, and what of it goes into its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from eventbus.loops._by_rank import RANKS
from eventbus.loops._model_state import PlainModelState

__all__ = ["check_context", "gaps", "named_parts"]

SINGLE = ("model", "optimizer", "scheduler")
SEVERAL = ("models", "optimizers")
OWN_KEYS = (*SINGLE, *SEVERAL, "random", "loop", RANKS)
WITHOUT_WEIGHTS = {"optimizer", "optimizers", "scheduler"}

SEVERAL_GO_BY_NAME = {
    "model": 'models={"g": ..., "d": ...}',
    "optimizer": 'optimizers={"g": ..., "d": ...}',
    "scheduler": 'state={"warmup": ..., "decay": ...}',
}


def check_context(context: Mapping[str, Any]) -> None:
    """Refuse what would leave weights out of checkpoints, and what is given twice.

    Raises
    ------
    ValueError
        One and several of a kind.
    TypeError
        A list, tuple, dict or iterator where one thing goes, or no dict where several go.
    """
    for group in SEVERAL:
        members, one = context.get(group), group[:-1]
        if members is not None and context.get(one) is not None:
            raise ValueError(f"give {one}= or {group}=, not both")
        for name, member in _named(group, members).items():
            _check_one(f"{group}={{{name!r}: ...}}", one, member)
    for one in SINGLE:
        _check_one(f"{one}=", one, context.get(one))


def _named(group: str, members: Any) -> Mapping[str, Any]:
    if members is not None and not isinstance(members, Mapping):
        raise TypeError(f"{group}= takes a dict, by name; got {members!r}")
    return members or {}


def _check_one(where: str, what: str, given: Any) -> None:
    # A named tuple may be one thing, as the optimizers of optax are.
    is_several = isinstance(given, list | dict | Iterator) or type(given) is tuple
    if is_several and not hasattr(given, "state_dict"):
        kind = type(given).__name__
        raise TypeError(
            f"{where} takes one {what} itself, and several go by name, "
            f"{SEVERAL_GO_BY_NAME[what]}; got an object of type {kind}"
        )


def named_parts(context: Mapping[str, Any], extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return all that has a `state_dict`, by the key of its part.

    Parameters
    ----------
    context
        Checked already.
    extra
        What a user wants in checkpoints besides.
    """
    given = _by_key(context)
    parts = {
        key: PlainModelState(part) if _is_model(key, part) else part
        for key, part in given.items()
        if hasattr(part, "state_dict")
    }
    for key, part in _named("state", extra).items():
        parts[_checked_key(key, part)] = part
    return parts


def _is_model(key: str, part: Any) -> bool:
    return key.partition(".")[0] in {"model", "models"} and isinstance(part, nn.Module)


def _by_key(context: Mapping[str, Any]) -> dict[str, Any]:
    single = {key: context.get(key) for key in SINGLE}
    several = {
        f"{group}.{name}": member
        for group in SEVERAL
        for name, member in (context.get(group) or {}).items()
    }
    return {key: part for key, part in {**single, **several}.items() if part is not None}


def _checked_key(key: str, part: Any) -> str:
    if key.partition(".")[0] in OWN_KEYS:
        raise ValueError(f"state={{{key!r}: ...}}: {key!r} is a key of the Run's own; take another")
    for method in ("state_dict", "load_state_dict"):
        if not callable(getattr(part, method, None)):
            raise TypeError(f"state={{{key!r}: ...}} needs a {method}; got {part!r}")
    return key


def gaps(
    context: Mapping[str, Any], parts: Mapping[str, Any], *, is_inner: bool = False
) -> list[str]:
    """Word what one would look for in a checkpoint of a run in vain.

    Parameters
    ----------
    parts
        What has a `state_dict`, by key.
    is_inner
        Whether the run is inside another, which as a rule has the model.
    """
    given = _by_key(context)
    found = [
        f"{key} is not in the checkpoint: a {type(part).__name__} has no state_dict"
        for key, part in given.items()
        if key not in parts
    ]
    groups = {key.partition(".")[0] for key in (*given, *parts)}
    if not is_inner and groups <= WITHOUT_WEIGHTS:
        found.append(
            "the run was given no model (model=...): its checkpoints hold no weights but those "
            "that handlers add"
        )
    return found
