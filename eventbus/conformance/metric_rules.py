"""Metrics: numbers by key, under the right names, and of the right span."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eventbus.conformance.field_rules import attached_to_graph, is_number
from eventbus.conformance.place import Seen, Tell

__all__ = ["EpochMetrics", "check_loss", "check_metrics", "check_prefix", "unread"]


def unread(seen: Seen) -> Mapping[str, Any]:
    """Return the metrics of an emission without reading any of the device; empty for none."""
    metrics = seen.fields.get("metrics")
    metrics = getattr(metrics, "tensors", metrics)  # what a Run sends would be read one and all
    return metrics if isinstance(metrics, Mapping) else {}


def check_metrics(seen: Seen, tell: Tell) -> None:
    """Tell of keys that are no names and values that are no numbers."""
    for key, value in unread(seen).items():
        if not isinstance(key, str) or not key:
            tell(seen, "metrics", f"metrics has the key {key!r}, which is no name")
        elif not is_number(value):
            kind = type(value).__name__
            tell(seen, "metrics", f"metrics[{key!r}] is to be one number; got a {kind}")
        elif attached_to_graph(value):
            tell(seen, "metrics", f"metrics[{key!r}] has its graph attached: detach it")


def check_loss(seen: Seen, tell: Tell) -> None:
    """Tell of a loss that is only a field or only a metric: handlers read the one or the other."""
    is_metric, is_field = "loss" in unread(seen), seen.fields.get("loss") is not None
    if is_metric and not is_field:
        tell(seen, "metrics", "metrics has a loss, and the field 'loss' was not sent")
    if is_field and not is_metric:
        tell(seen, "metrics", "carries a loss that its metrics lack: loggers read the metrics")


def check_prefix(seen: Seen, tell: Tell) -> None:
    """Tell of a validation's metrics that are not called `<name>_<key>`."""
    name = seen.fields.get("name")
    for key in unread(seen):
        if isinstance(key, str) and not key.startswith(f"{name}_"):
            wanted = f"the metrics of a validation are <name>_<key>: {f'{name}_{key}'!r}"
            tell(seen, "metrics", f"metrics has {key!r}; {wanted}")


class EpochMetrics:
    """The keys that the metrics of the epoch must have, and those that would be older."""

    def __init__(self) -> None:
        self._trained: set[str] = set()
        self._validated: dict[str, Any] = {}
        self._older: set[str] = set()
        self._is_partial = False

    def begin(self) -> None:
        """Begin an epoch: what was validated before is older from now on."""
        self._older |= set(self._validated)
        self._trained, self._validated = set(), {}
        self._is_partial = False

    def begin_midway(self) -> None:
        """Go on with an epoch that began before: part of its metrics is from then."""
        self._is_partial = True

    def trained(self, seen: Seen) -> None:
        """Take in a finished step."""
        self._trained |= set(unread(seen))

    def validated(self, seen: Seen) -> None:
        """Take in a validation that is done."""
        self._validated.update(unread(seen))

    def check(self, seen: Seen, tell: Tell) -> None:
        """Hold the metrics of a finished epoch against what was seen in it."""
        metrics = unread(seen)
        if seen.fields.get("metrics") is None:
            return  # told as a missing field
        for key in sorted(self._trained - set(metrics)):
            tell(seen, "metrics", f"metrics lacks {key!r}, which the steps of the epoch reported")
        for key in sorted(set(self._validated) - set(metrics)):
            tell(seen, "metrics", f"metrics lacks {key!r}, which was validated in this epoch")
        known = self._trained | set(self._validated)
        for key in sorted(self._older & set(metrics) - known) if not self._is_partial else ():
            tell(seen, "metrics", f"metrics has {key!r}, which is of an earlier epoch's validation")
        for key in self._validated.keys() & metrics.keys() - self._trained:
            self._check_same(key, metrics[key], seen, tell)

    def _check_same(self, key: str, value: Any, seen: Seen, tell: Tell) -> None:
        if is_number(value) and is_number(self._validated[key]):
            told, said = float(value), float(self._validated[key])  # waits for the device
            same = math.isclose(told, said, rel_tol=1e-4) or (math.isnan(told) and math.isnan(said))
            if not same:
                tell(seen, "metrics", f"says {key!r} {told:g}; its validation has said {said:g}")
