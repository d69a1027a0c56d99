"""What a LightningModule logs, read off its trainer: which values are new, and under which keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from eventbus.loops._metrics import scalars
from eventbus.loops._report import FIELDS

if TYPE_CHECKING:
    from lightning import Trainer
    from torch import Tensor

__all__ = ["Logged", "read_output", "split_by_loader", "without_prefix"]

PREFIX = re.compile(r"^val(?:id|idation)?[_/.]")
SUFFIX = re.compile(r"^(.*)/dataloader_idx_(\d+)$")


class Logged:
    """The values in `trainer.callback_metrics` that were not there at the last reading.

    That mapping keeps each key for the whole run. A value logged anew has memory of its own, and
    as the old one is held here, the two addresses differ; no value is read.
    """

    def __init__(self) -> None:
        self._seen: Mapping[str, Tensor] = {}

    def fresh(self, trainer: Trainer) -> dict[str, Any]:
        """Return them by key; of `acc`, `acc_step` and `acc_epoch`, which are one value, `acc`."""
        return self._new_among(trainer.callback_metrics)

    def fresh_in_step(self, trainer: Trainer) -> dict[str, Any]:
        """Return those of the training step under way, likewise.

        Not by `trainer.callback_metrics`, which reads each value for the progress bar anew: that
        would wait for the device at each step.
        """
        results = trainer._results
        return {} if results is None else self._new_among(_values_in_step(results))

    def _new_among(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        seen, self._seen = self._seen, {**self._seen, **values}
        new = {
            key: value
            for key, value in values.items()
            if key not in seen or value.data_ptr() != seen[key].data_ptr()
        }
        forks = {f"{key}{ending}" for key in new for ending in ("_step", "_epoch")}
        return scalars({key: new[key] for key in new if key not in forks and key not in FIELDS})


def _values_in_step(results: Any) -> dict[str, Tensor]:
    """Return the values that a step has logged, under their name and that with `_step`."""
    values: dict[str, Tensor] = {}
    for _, metric in results.valid_items():
        value = results._get_cache(metric, on_step=True)
        if isinstance(value, torch.Tensor):
            for name in results._forked_name(metric, on_step=True):
                values[name] = value
    return values


def without_prefix(logged: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a validation logged under keys that do not say so once more.

    Examples
    --------
    >>> without_prefix({"val_loss": 0.5, "valid/acc": 0.9, "f1": 0.8, "value": 1})
    {'loss': 0.5, 'acc': 0.9, 'f1': 0.8, 'value': 1}
    """
    return {PREFIX.sub("", key): value for key, value in logged.items()}


def split_by_loader(logged: Mapping[str, Any], loader: int) -> tuple[dict[str, Any], ...]:
    """Return what was logged for one of several loaders, and the rest.

    Examples
    --------
    >>> split_by_loader({"val_loss/dataloader_idx_1": 0.5, "val_mean": 0.7}, 1)
    ({'val_loss': 0.5}, {'val_mean': 0.7})
    """
    own, rest = {}, {}
    for key, value in logged.items():
        found = SUFFIX.match(key)
        if found is None:
            rest[key] = value
        elif int(found[2]) == loader:
            own[found[1]] = value
    return own, rest


def read_output(output: Any) -> dict[str, Any]:
    """Take what a step returned for its loss, or for what it names.

    Examples
    --------
    >>> read_output({"loss": 0.5, "note": "fine"}), read_output(0.5), read_output(None)
    ({'loss': 0.5}, {'loss': 0.5}, {})
    """
    if not isinstance(output, Mapping):
        return scalars({"loss": output})
    fields = {key: output[key] for key in FIELDS if key in output}
    if not isinstance(fields.get("batch_size", 0), int):
        del fields["batch_size"]  # a tensor would have to be read
    return {**scalars({k: v for k, v in output.items() if k not in FIELDS}), **fields}
