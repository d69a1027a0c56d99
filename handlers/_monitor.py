"""Reading a monitored metric: which key, which way is better, and what counts as better."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

from eventbus import Event

__all__ = ["Mode", "Monitor", "as_number", "as_numbers"]

Mode = Literal["min", "max"]


@dataclass
class Monitor:
    """One metric that a handler watches.

    Parameters
    ----------
    owner
        The handler's name, for messages.
    metric
        The key in `metrics`; where an emission has no such key, it is passed over.
    mode
        "min" where lower is better, "max" where higher is.
    min_delta
        By how much a value must be better to count, at least 0: absolute, or with `relative` as
        a fraction of the magnitude of the best.
    on
        The signals that it is read on, for messages.

    Attributes
    ----------
    seen : bool
        Whether the key came in this run.
    keys : set of str
        Every key that came in this run.
    """

    owner: str
    metric: str
    mode: Mode = "min"
    min_delta: float = 0.0
    relative: bool = False
    on: tuple[str, ...] = ()
    seen: bool = False
    keys: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise TypeError(f"{self.owner} watches a metric by its key; got {self.metric!r}")
        if self.mode not in ("min", "max"):
            raise ValueError(f"{self.owner}: mode is 'min' or 'max', got {self.mode!r}")
        if not isinstance(self.min_delta, Real) or not 0.0 <= self.min_delta < math.inf:
            raise ValueError(
                f"{self.owner}: min_delta is finite and not negative, got {self.min_delta!r}"
            )

    def reset(self) -> None:
        """Forget which keys came: another run begins."""
        self.seen = False
        self.keys = set()

    def notice(self, metrics: Mapping[str, Any]) -> bool:
        """Note which keys came, and tell whether the metric did; nothing is read."""
        self.keys.update(metrics)
        return self.metric in metrics

    def read(self, metrics: Mapping[str, Any] | None) -> float | None:
        """Return the metric, or None where this emission does not carry it.

        Reading waits for the device where the value is still there.
        """
        if not metrics or not self.notice(metrics):
            return None
        value = metrics[self.metric]
        if value is None:
            return None
        self.seen = True
        return as_number(value, f"{self.owner}: metric {self.metric!r}")

    def improves(self, value: float, best: float | None) -> bool:
        """Tell whether a value is better than the best by more than `min_delta`.

        A value that is not finite never is; the first finite one always is.
        """
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        # |best|, so that a fraction of a negative score does not turn the comparison around.
        margin = self.min_delta * abs(best) if self.relative else self.min_delta
        return value < best - margin if self.mode == "min" else value > best + margin

    def reaches(self, value: float, threshold: float) -> bool:
        """Tell whether a finite value is at least as good as the threshold."""
        if not math.isfinite(value):
            return False
        return value <= threshold if self.mode == "min" else value >= threshold

    def warn_never_seen(self, consequence: str, end: Event) -> None:
        """Log one warning that the key never came, with the keys that did, and where it is.

        `end` is the `run_finished` of the run, whose metrics are the last of each. One that was
        stopped before an epoch was done is not told: it may have had the key still to come.
        """
        if end.fields.get("reason") != "completed" and (end.fields.get("epoch") or 0) <= 1:
            return
        keys = ", ".join(repr(key) for key in sorted(self.keys)) or "none"
        logging.getLogger("eventbus.handlers").warning(
            "%s never saw its metric %r, so %s; keys seen on %s: %s%s",
            self.owner,
            self.metric,
            consequence,
            " and ".join(self.on),
            keys,
            self._elsewhere(end),
        )

    def _elsewhere(self, end: Event) -> str:
        """Say where the key is to be found, or may be."""
        if end.fields.get("epoch") == 0 and all(one.startswith("epoch_") for one in self.on):
            return "; the loop has steps and no epochs: write on='batch_finished'"
        if self.metric in (end.fields.get("metrics") or ()):
            if not end.fields.get("epoch") or "epoch_finished" in self.on:
                return ""
            return f"; epoch_finished has {self.metric!r}: write on='epoch_finished'"
        if "metrics_measured" in self.on:
            return ""
        # Nobody has listened there: beside `GradientClipping` that would cost each step.
        return "; if a handler measures it: write on='metrics_measured', or report it in the loop"


def as_number(value: Any, what: str) -> float:
    """Turn a metric into a float; one too large for a float is infinite.

    Raises
    ------
    TypeError
        It is no number: a text, a tensor of several elements.
    """
    if isinstance(value, str | bytes):
        raise TypeError(f"{what} must be a number, got {value!r}")
    try:
        # `item`: of a loss that carries its graph, or an array of one element, `float` warns.
        return float(value.item() if hasattr(value, "item") else value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(value).__name__
        raise TypeError(f"{what} must be a number, got {kind}: {error}") from error


def as_numbers(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Read the metrics that are numbers (one transfer from the device); others are left out."""
    numbers = {}
    for key, value in (metrics or {}).items():
        with contextlib.suppress(TypeError):
            numbers[key] = as_number(value, key)
    return numbers
