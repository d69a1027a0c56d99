"""Which classes are taken for which, counted over each validation and drawn."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from eventbus import Event, EventBus, Priority, handles, on_rank

from ._arguments import When
from ._one_run import OfOneRun
from ._pictures import literal
from ._requires import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["ConfusionMatrix"]

logger = logging.getLogger("eventbus.handlers.confusion_matrix")

_INCHES = (3.0, 0.35)  # a figure without cells, and each cell
_LARGEST_INCHES = 12.0
_MOST_CELLS_WITH_NUMBERS = 20


class ConfusionMatrix(OfOneRun):
    """Count the true and the predicted classes of each validation, and draw them.

    ==================  =====================================================================
    signals consumed    `validation_started`, `validation_batch_finished`, `validation_done`,
                        `run_started`, `run_finished`
    values produced     `figure_drawn`: tag `<validation>_confusion_matrix`, a
                        `matplotlib.figure.Figure`; `matrix`, counts of samples
    cost                each step: nothing. Each validation batch: a few kernels, no
                        synchronisation. Each drawing: one transfer from the device, and some
                        tenths of a second
    state               none in a checkpoint; starts anew with a run that does not resume
    needs               matplotlib: `pip install 'training-eventbus[plot]'`
    band, errors        MEASURE for counting, REPORT for drawing; isolated; each rank counts its own
                        batches, and rank 0 draws its counts
    ==================  =====================================================================

    The loop has to report `outputs` and `targets` in its validation batches.

    Outputs are scores of floating point, (N, classes, ...), of which the largest wins; or one score
    for two classes, (N,) or (N, 1), of which those above `threshold` are class 1; or predicted
    class numbers, of the shape of the targets. Targets are class numbers, (N, ...), or class
    probabilities in the shape of the scores. A target that is no class (-100, 255) is not counted.

    Parameters
    ----------
    classes
        How many there are, or their names in order. None: as many as the scores say.
    normalize
        Colour by the fraction of each true class, not by counts; the numbers are counts anyway.
    when
        A filter on drawing, by validations: ``every(5)``. Every validation is counted.
    threshold
        Above which the one score for two classes means class 1: 0.0 for logits, 0.5 for
        probabilities (what a sigmoid has given). Where it is 0.0 and all of a validation that is
        drawn lay between 0 and 1, one warning asks for it.

    Attributes
    ----------
    matrix : torch.Tensor or None
        Of the last validation that was done: (classes, classes), int64, on the device of the
        outputs; a row for each true class, a column for each predicted one.

    Examples
    --------
    >>> import torch
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import ConfusionMatrix
    >>> bus, confusion = EventBus(), ConfusionMatrix(["cat", "dog"])
    >>> _ = bus.attach(confusion)
    >>> @bus.on("figure_drawn")
    ... def show(tag, figure): print(tag)
    >>> loop = bus.bind(sender="train")
    >>> place = {"name": "val", "round": 1, "epoch": 1, "step": 10}
    >>> scores = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    >>> batch = {"outputs": scores, "targets": torch.tensor([0, 1, 1])}
    >>> _ = loop.emit("validation_batch_finished", **batch, **place)
    >>> _ = loop.emit("validation_done", **place)
    val_confusion_matrix
    >>> confusion.matrix
    tensor([[1, 0],
            [1, 1]])
    """

    def __init__(
        self,
        classes: int | Sequence[str] | None = None,
        *,
        normalize: bool = True,
        when: When | None = None,
        threshold: float = 0.0,
    ) -> None:
        require("matplotlib.figure", extra="plot", wanted_by="ConfusionMatrix")
        self.names, self.classes = _names_and_number(classes)
        self.normalize, self.threshold = normalize, _threshold_given(threshold)
        self._start_over()
        due = on_rank(0) if when is None else when & on_rank(0)
        marked = handles("validation_done", when=due, priority=Priority.REPORT, on_error="isolate")
        self.draw = marked(self.draw)  # type: ignore[method-assign]  # marked with what was asked for

    def _start_over(self) -> None:
        self.matrix: Tensor | None = None
        self._counts: Tensor | None = None
        self._range: tuple[Tensor, Tensor] | None = None  # of what was taken for logits
        self._has_warned = False
        self._lacks: set[str] = set()

    @handles("run_started", priority=Priority.MEASURE, on_error="isolate")
    def start(self, event: Event) -> None:
        """Forget the run before, unless this one resumes."""
        self._begin_run(event)

    # -- counting

    @handles("validation_started", priority=Priority.MEASURE, on_error="isolate")
    def begin(self) -> None:
        """Forget what an interrupted validation left."""
        self._counts = None

    @handles("validation_batch_finished", priority=Priority.MEASURE, on_error="isolate")
    def count(self, name: str, outputs: Any = None, targets: Any = None) -> None:
        """Count a batch, on its device."""
        if outputs is None or targets is None:
            self._lacks.add(name)
            return
        classes = self.classes or _classes_of(outputs)
        if self._counts is None:
            self._counts, self._range = _zeros(classes, outputs), None
        if self.threshold == 0.0 and _are_binary(outputs):
            self._range = _widened(self._range, outputs)
        true, predicted = _class_numbers(targets, classes), _predictions(outputs, self.threshold)
        _count_pairs(self._counts, true, predicted)

    @handles("validation_done", priority=Priority.MEASURE, on_error="isolate")
    def end(self) -> None:
        """Take the counts of the validation that is done for the matrix."""
        self.matrix, self._counts = self._counts, None

    # -- drawing

    def draw(self, bus: EventBus, name: str) -> None:
        """Draw the matrix, which waits for the device, and emit the picture."""
        if self.matrix is not None:
            self._warn_of_probabilities(name)
            figure = self.figure(self.matrix.tolist(), title=name)
            bus.emit("figure_drawn", tag=f"{name}_confusion_matrix", figure=figure)

    def _warn_of_probabilities(self, name: str) -> None:
        if self._range is None or self._has_warned:
            return
        lowest, highest = (bound.item() for bound in self._range)
        if lowest >= 0.0 and 0.0 < highest <= 1.0:  # all 0: a last layer that begins with zeros
            self._has_warned = True
            logger.warning(
                "ConfusionMatrix took the outputs of validation %r for logits, of which those "
                "above 0 are class 1, and all were from %.3g to %.3g; for probabilities write "
                "threshold=0.5",
                name,
                lowest,
                highest,
            )

    def figure(self, counts: Sequence[Sequence[int]], title: str = "") -> Figure:
        """Draw counts, a row for each true class; without a display, and unknown to pyplot."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        side = min(_LARGEST_INCHES, _INCHES[0] + _INCHES[1] * len(counts))
        figure = Figure(figsize=(side, side), layout="constrained")
        FigureCanvasAgg(figure)
        self._fill(figure.add_subplot(), counts, title)
        return figure

    def _fill(self, axes: Axes, counts: Sequence[Sequence[int]], title: str) -> None:
        colours = _fractions(counts) if self.normalize else counts
        image = axes.imshow(colours, cmap="Blues", vmin=0, vmax=1 if self.normalize else None)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_title(literal(title))
        if self.names is not None:
            names = [literal(name) for name in self.names]
            axes.set_xticks(range(len(names)), names, rotation=90)
            axes.set_yticks(range(len(names)), names)
        if len(counts) <= _MOST_CELLS_WITH_NUMBERS:
            _write_numbers(axes, counts, colours, image.get_clim()[1] or 1.0)
        axes.figure.colorbar(image, ax=axes, shrink=0.8)

    @handles("run_finished", priority=Priority.REPORT, on_error="isolate")
    def finish(self) -> None:
        """Warn where there was nothing to count."""
        for name in sorted(self._lacks):
            logger.warning(
                "ConfusionMatrix counted nothing of validation %r: its batches report no outputs "
                "and targets",
                name,
            )


def _names_and_number(classes: Any) -> tuple[list[str] | None, int | None]:
    if classes is None:
        return None, None
    is_several = isinstance(classes, Iterable) and not isinstance(classes, str)
    names = [str(name) for name in classes] if is_several else None
    number = classes if names is None else len(names)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(
            f"ConfusionMatrix takes the number of classes, or their names; got {classes!r}"
        )
    return names, number


def _threshold_given(threshold: Any) -> float:
    is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if is_number and math.isfinite(threshold):
        return float(threshold)
    raise ValueError(
        "ConfusionMatrix: threshold is a finite number, 0.0 for logits or 0.5 for probabilities; "
        f"got {threshold!r}"
    )


def _classes_of(outputs: Tensor) -> int:
    if _are_binary(outputs):
        return 2
    if not outputs.is_floating_point():
        raise ValueError("ConfusionMatrix cannot tell how many classes there are: give classes=")
    return outputs.shape[1]


def _are_binary(outputs: Tensor) -> bool:
    return outputs.is_floating_point() and (outputs.dim() == 1 or outputs.shape[1] == 1)


def _widened(bounds: tuple[Tensor, Tensor] | None, outputs: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the least and the largest of all outputs so far, on their device."""
    if not outputs.numel():
        return bounds
    lowest, highest = outputs.aminmax()
    if bounds is None:
        return lowest, highest
    return lowest.minimum(bounds[0]), highest.maximum(bounds[1])


def _predictions(outputs: Tensor, threshold: float) -> Tensor:
    """Return predicted class numbers, as one vector."""
    if _are_binary(outputs):
        return (outputs > threshold).long().flatten()
    return (outputs.argmax(1) if outputs.is_floating_point() else outputs).long().flatten()


def _class_numbers(targets: Tensor, classes: int) -> Tensor:
    """Return true class numbers, as one vector."""
    is_soft = targets.is_floating_point() and targets.dim() > 1 and targets.shape[1] == classes
    return (targets.argmax(1) if is_soft else targets).long().flatten()


def _zeros(classes: int, like: Tensor) -> Tensor:
    import torch

    return torch.zeros(classes, classes, dtype=torch.int64, device=like.device)


def _count_pairs(counts: Tensor, true: Tensor, predicted: Tensor) -> None:
    """Add pairs to the counts, leaving out those of no class."""
    classes = len(counts)
    is_class = (true >= 0) & (true < classes) & (predicted >= 0) & (predicted < classes)
    place = (true * classes + predicted).where(is_class, 0)
    # `bincount`, or picking those that are classes, would wait for the device.
    counts.view(-1).scatter_add_(0, place, is_class.long())


def _fractions(counts: Sequence[Sequence[int]]) -> list[list[float]]:
    return [[count / max(1, sum(row)) for count in row] for row in counts]


def _write_numbers(
    axes: Axes,
    counts: Sequence[Sequence[int]],
    colours: Sequence[Sequence[float]],
    largest: float,
) -> None:
    for y, row in enumerate(counts):
        for x, number in enumerate(row):
            ink = "white" if colours[y][x] > largest / 2 else "black"
            axes.text(x, y, str(number), ha="center", va="center", color=ink, fontsize=8)
