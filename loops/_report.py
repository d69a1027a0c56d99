"""What the body of a loop reported about the batch under way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from eventbus.loops._metrics import as_recorded
from eventbus.loops._nested import detached

__all__ = ["FIELDS", "Report"]

FIELDS = ("batch_size", "outputs", "targets")
"""What `report` takes that is no metric: it becomes the field of that name."""


class Report:
    """Metrics and fields, each reported once.

    Attributes
    ----------
    metrics : dict of str to float or Tensor
        Detached, on their device.
    fields : dict
        `outputs` and `targets`, detached, and `batch_size`, where they were reported.
    made : bool
        True once anything was reported.
    """

    __slots__ = ("fields", "made", "metrics")

    def __init__(self) -> None:
        self.metrics: dict[str, float | Tensor] = {}
        self.fields: dict[str, Any] = {}
        self.made = False

    def add(self, values: Mapping[str, Any], place: object, taken: Collection[str] = ()) -> None:
        """Record `values`; messages say that they were reported for `place`."""
        metrics, fields = self.metrics, self.fields
        if self.made or taken:  # the first report of a step, which is nearly each, has no doubles
            self._refuse_doubles(values, place, taken)
        for key, value in values.items():
            if key in FIELDS:
                fields[key] = _as_field(key, value)
            else:
                metrics[key] = as_recorded(key, value)
        self.made = True

    def _refuse_doubles(self, values: Iterable[str], place: object, taken: Collection[str]) -> None:
        for key in values:
            if key in self.metrics or key in self.fields or key in taken:
                raise ValueError(f"{key!r} was already reported for {place}")

    def add_metrics(self, values: Mapping[str, Any], place: str, taken: Collection[str]) -> None:
        """Record `values` where there is no batch that fields could belong to."""
        for key in FIELDS:
            if key in values:
                raise ValueError(f"{key!r} belongs to a batch, and none is under way in {place}")
        self.add(values, place, taken)


def _as_field(key: str, value: Any) -> Any:
    if key != "batch_size":
        return detached(value)
    if not isinstance(value, int) or value < 0:
        # A tensor would have to be read, and reading one waits for the device.
        raise TypeError(f"batch_size must be an int of at least 0; got {value!r}")
    return value
