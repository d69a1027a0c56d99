"""The parameter groups of an optimizer: their rates by name, and what else a scheduler changes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["assign", "rates_of", "restore_rates", "settings_of"]


def rates_of(optimizer: Optimizer, ahead: str = "") -> dict[str, float]:
    """Return the learning rate of each group, in their order, by its "name", else its number.

    A name that a group before has already gets the group's number behind it: none is lost, and one
    more group changes no other's name. Reading a rate that is a tensor waits for its device.

    Parameters
    ----------
    ahead
        What all names begin with.

    Examples
    --------
    >>> import torch
    >>> from eventbus.handlers._parameter_groups import rates_of
    >>> weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    >>> names = [{"name": "body"}, {"name": "body"}, {}]
    >>> groups = [{"params": [one], **name} for one, name in zip(weights, names)]
    >>> rates_of(torch.optim.SGD(groups, lr=0.5))
    {'body': 0.5, 'body_1': 0.5, '2': 0.5}
    """
    rates: dict[str, float] = {}
    for number, group in enumerate(optimizer.param_groups):
        name = ahead + _name_of(number, group)
        while name in rates:
            name = f"{name}_{number}"
        rates[name] = float(group["lr"])
    return rates


def restore_rates(optimizer: Optimizer, rates: Sequence[float]) -> None:
    """Set the learning rate of each group, in their order.

    Raises
    ------
    ValueError
        They are those of an optimizer with another number of groups.
    """
    groups = optimizer.param_groups
    if len(rates) == len(groups):
        for group, rate in zip(groups, rates, strict=True):
            assign(group, "lr", rate)
    elif len(rates) != len({_name_of(*each) for each in enumerate(groups)}):
        raise ValueError(
            f"the learning rates of {len(rates)} parameter groups were saved; "
            f"the optimizer has {len(groups)}"
        )
    # Else one rate was saved for all groups of a name, as was done once: the optimizer's own stay.


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Copy all that a scheduler may change, by group: rates, momenta."""
    return [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


def assign(group: dict[str, Any], key: str, value: Any) -> None:
    """Set one of a group's settings; a tensor, to which a captured graph may refer, in place."""
    if hasattr(group.get(key), "fill_"):
        group[key].fill_(value)
    else:
        group[key] = value


def _name_of(number: int, group: dict[str, Any]) -> str:
    return str(group.get("name", number))
