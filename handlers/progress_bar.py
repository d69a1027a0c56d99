"""How far a run has come, as a bar in the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from eventbus import Priority, handles, on_rank
from eventbus.handlers._arguments import number_given
from eventbus.handlers._live_line import Beside, LiveLine
from eventbus.handlers._rates import Progress, size_of, spell
from eventbus.handlers._requires import require
from eventbus.handlers._rows import plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ProgressBar"]

_BAR_CELLS = 24

_heard = partial(handles, priority=Priority.REPORT, on_error="isolate")
_heard_on_rank_0 = partial(_heard, when=on_rank(0))


class ProgressBar:
    """Shows epochs, steps, the last metrics and the time that is left, in one line that is redrawn.

    Without a terminal (a log file, a notebook server's log, another rank) it is quiet, and it falls
    silent where the terminal goes away. What is printed or logged meanwhile appears above the bar.

    The bar is of the epoch where its length is known (from the loader, or from the epoch before),
    else of the run. Time is that of a monotonic clock.

    ==================  =====================================================================
    signals consumed    `run_started`, `run_closed`, `stop_requested`, `epoch_started`,
                        `epoch_finished`, `loader_opened`, `batch_loaded`, `batch_finished`,
                        `validation_*`
    values produced     none
    cost                a step: one look at the clock, some hundred nanoseconds. A redraw, four
                        times a second at most: about a millisecond, and reading the metrics, one
                        transfer from the device that waits for it
    state               none
    needs               rich: `pip install 'training-eventbus[progress]'`
    band, errors        REPORT; isolated; rank 0 draws
    ==================  =====================================================================

    Parameters
    ----------
    console
        A `rich.console.Console` to draw on; standard error, unless given.
    refreshes_per_s
        How often it is redrawn at most, 1/s.
    monotonic
        The clock, in seconds.

    Raises
    ------
    ImportError
        rich is not installed.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import ProgressBar
    >>> bus = EventBus()
    >>> with bus.attach(ProgressBar()):
    ...     _ = bus.emit("run_started", epochs=3)
    ...     _ = bus.emit("run_closed", outcome="completed")
    """

    def __init__(
        self,
        *,
        console: Console | None = None,
        refreshes_per_s: float = 4.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        require("rich.live", extra="progress", wanted_by="ProgressBar")
        number_given("ProgressBar", "refreshes_per_s", refreshes_per_s)
        if not refreshes_per_s > 0:
            raise ValueError(
                f"ProgressBar: refreshes_per_s is a positive number, got {refreshes_per_s!r}"
            )
        self._line = LiveLine(console)
        self._monotonic = monotonic
        self._interval_s = 1.0 / refreshes_per_s
        self._progress = Progress(monotonic)
        self._forget()

    def _forget(self) -> None:
        self._next = math.inf  # nothing is drawn while no line is open
        self._validating = ""
        self._validation_batches = 0
        self._stopping = ""
        self._is_over = False
        self._unread: list[Mapping[str, Any]] = []
        self._metrics: dict[str, Any] = {}

    # -- the run

    @_heard_on_rank_0("run_started")
    def start(
        self,
        epochs: int | None = None,
        steps: int | None = None,
        resumed_from: str | None = None,
    ) -> None:
        """Show the bar, where there is a terminal."""
        self._forget()
        self._progress.start(epochs, steps, resumed=resumed_from is not None)
        self._open()

    @_heard_on_rank_0("epoch_started")
    def start_epoch(self, epoch: int, step: int) -> None:
        """Begin the bar anew."""
        self._progress.start_epoch(epoch, step)
        if not self._line.is_open:
            self._open()
        self._draw_if_due()

    @_heard("loader_opened")
    def open_loader(self, loader: object) -> None:
        """Learn how many batches there are."""
        self._progress.batches = size_of(loader)

    @_heard("epoch_finished")
    def finish_epoch(
        self,
        epoch: int,
        step: int,
        metrics: Mapping[str, Any] | None = None,
        complete: bool = True,
    ) -> None:
        """Keep the metrics of the epoch for the next redraw."""
        self._progress.finish_epoch(epoch, step, complete=complete)
        self._note(metrics)
        self._draw_if_due()

    @_heard("stop_requested")
    def stop(self, reason: str) -> None:
        """Show that the run is about to end."""
        self._stopping = f"stopping: {reason}"
        self._draw_if_due()

    @_heard("run_closed")
    def close(self) -> None:
        """Leave the bar in its last state, and give the terminal back; once more does nothing."""
        if self._line.is_open:
            self._is_over = True
            self._draw()
        self._line.close()
        self._forget()

    # -- the hot path

    @_heard("batch_loaded")
    def count_batch(self, batch_index: int | None = None) -> None:
        """Count a micro-batch."""
        self._progress.batch_index = batch_index or 0

    @_heard("batch_finished")
    def finish_step(
        self,
        epoch: int,
        step: int,
        metrics: Mapping[str, Any] | None = None,
        loss: Any = None,
    ) -> None:
        """Redraw, where it is time; else touch nothing."""
        if self._monotonic() < self._next:
            return
        self._progress.reach(epoch, step)
        self._note(metrics if metrics is not None or loss is None else {"loss": loss})
        self._draw()

    @_heard("validation_batch_finished")
    def count_validation_batch(self) -> None:
        """Count a batch of a validation; redraw, where it is time."""
        self._validation_batches += 1
        self._draw_if_due()

    # -- validation

    @_heard("validation_started")
    def start_validation(self, name: str) -> None:
        """Show that a validation is under way."""
        self._validating, self._validation_batches = name, 0
        self._draw_if_due()

    @_heard("validation_done", "validation_interrupted")
    def finish_validation(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Keep the metrics of the validation for the next redraw."""
        self._validating = ""
        self._note(metrics)
        self._draw_if_due()

    # -- drawing

    def _open(self) -> None:
        self._next = self._monotonic() if self._line.open() else math.inf

    def _note(self, metrics: Mapping[str, Any] | None) -> None:
        if metrics is not None and self._next is not math.inf:
            self._unread = [*self._unread[-2:], metrics]  # a step's, a validation's, an epoch's

    def _draw_if_due(self) -> None:
        if self._monotonic() >= self._next:
            self._draw()

    def _draw(self) -> None:
        """Redraw. Reads the metrics, which synchronises with their device."""
        for metrics in self._unread:
            self._metrics |= plain(metrics)
        self._unread = []
        self._line.show(self._picture())
        self._next = self._monotonic() + self._interval_s if self._line.is_open else math.inf

    def _picture(self) -> Beside:
        from rich.progress_bar import ProgressBar as Bar
        from rich.text import Text

        part = self._part()
        width = min(_BAR_CELLS, max(5, self._line.width // 4))
        bar = Bar(1.0, part or 0.0, width=width, pulse=part is None, animation_time=0.0)
        words = "  ".join(filter(None, self._words()))
        texts = [Text(text, no_wrap=True, end="") for text in (self._counts(), words)]
        counts, told = texts
        return Beside(counts, bar, told) if counts else Beside(bar, told)

    def _part(self) -> float | None:
        progress = self._progress
        if progress.batches or progress.steps_per_epoch:
            return progress.of_epoch()
        return progress.fraction()

    def _counts(self) -> str:
        epoch, epochs = self._progress.epoch, self._progress.epochs
        if not epoch and not epochs:
            return ""  # a loop without epochs
        return f"epoch {epoch}{f'/{epochs}' if epochs else ''}"

    def _words(self) -> list[str]:
        progress = self._progress
        total = f"/{progress.steps}" if progress.steps else ""
        return [
            f"step {progress.step}{total}",
            f"{self._validating} {self._validation_batches}" if self._validating else "",
            self._time(),
            self._stopping,
            *(f"{name} {_number(value)}" for name, value in self._metrics.items()),
        ]

    def _time(self) -> str:
        left = self._progress.eta_s()
        if self._is_over:
            return f"in {spell(self._progress.elapsed_s)}"
        return "" if left is None else f"eta {spell(left)}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
