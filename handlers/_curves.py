"""The metrics of a run in columns of equal length, and a picture of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eventbus.handlers._monitor import as_numbers
from eventbus.handlers._pictures import literal
from eventbus.handlers._requires import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS_PER_ROW = 3
_PANEL_INCHES = (4.0, 3.0)
_LARGEST = 1e300  # beyond it matplotlib's own arithmetic overflows


class Curves:
    """One row for each recording; a metric that a row has not is NaN there.

    Attributes
    ----------
    epochs, steps : list of int
        Of each row; 0 where the emission had none.
    metrics : dict of str to list of float
        As long as `epochs`.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.epochs: list[int] = []
        self.steps: list[int] = []
        self.metrics: dict[str, list[float]] = {}

    def record(self, epoch: int, step: int, metrics: Mapping[str, Any]) -> None:
        """Add a row of what is a number. Reading the metrics synchronises with their device."""
        numbers, rows = as_numbers(metrics), len(self.epochs)
        self.epochs.append(epoch)
        self.steps.append(step)
        for name, value in numbers.items():
            column = self.metrics.setdefault(name, [math.nan] * rows)
            column.append(value)
        for column in self.metrics.values():
            column.extend([math.nan] * (rows + 1 - len(column)))

    def state(self) -> dict[str, Any]:
        """Return a copy of all as plain Python."""
        metrics = {name: list(column) for name, column in self.metrics.items()}
        return {"epochs": list(self.epochs), "steps": list(self.steps), "metrics": metrics}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.epochs, self.steps = list(state["epochs"]), list(state["steps"])
        self.metrics = {name: list(column) for name, column in state["metrics"].items()}

    def draw(self, *, wanted_by: str) -> Figure:
        """Draw each metric over the epochs (over the steps, where rows share an epoch).

        `loss` and `val_loss` share a panel. The figure needs no display and is unknown to pyplot.
        """
        require("matplotlib.figure", extra="plot", wanted_by=wanted_by)
        from matplotlib.figure import Figure

        panels = group(list(self.metrics))
        across = min(_PANELS_PER_ROW, max(1, len(panels)))
        down = max(1, math.ceil(len(panels) / across))
        size = (_PANEL_INCHES[0] * across, _PANEL_INCHES[1] * down)
        figure = Figure(figsize=size, layout="constrained")
        for place, (title, names) in enumerate(panels.items(), start=1):
            self._draw_panel(figure.add_subplot(down, across, place), title, names)
        return figure

    def _draw_panel(self, axes: Axes, title: str, names: Sequence[str]) -> None:
        by_epoch = len(set(self.epochs)) == len(self.epochs)
        across = self.epochs if by_epoch else self.steps
        for name in names:
            pairs = zip(across, self.metrics[name], strict=True)
            points = [(x, y) for x, y in pairs if abs(y) < _LARGEST]  # so NaN is left out too
            xs, ys = [x for x, _ in points], [y for _, y in points]
            axes.plot(xs, ys, ".-", label=literal(name))
        axes.set_title(literal(title))
        axes.set_xlabel("epoch" if by_epoch else "step")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()


def group(names: Sequence[str]) -> dict[str, list[str]]:
    """Put each metric with the one whose name it ends with: `val_loss` with `loss`.

    Examples
    --------
    >>> from eventbus.handlers._curves import group
    >>> group(["loss", "val_loss", "val_accuracy"])
    {'loss': ['loss', 'val_loss'], 'val_accuracy': ['val_accuracy']}
    """
    panels: dict[str, list[str]] = {}
    for name in names:
        stems = [stem for stem in names if name.endswith(f"_{stem}")]
        panels.setdefault(min(stems, key=len, default=name), []).append(name)
    return panels
