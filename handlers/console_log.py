"""A run as lines of text, for a terminal and for a log file alike."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from eventbus import Event, Priority, every, handles, on_rank
from eventbus.handlers._arguments import When
from eventbus.handlers._rates import Progress, Throughput, size_of, spell
from eventbus.handlers._rows import plain
from eventbus.handlers._skips import Skips

__all__ = ["ConsoleLog"]

_log = logging.getLogger("eventbus.handlers.console")
_VALUE_WIDTH = 9  # five significant digits, with a sign and an exponent where there are such
_STEP_WIDTH = 6

_counted = partial(handles, priority=Priority.REPORT + 1, on_error="isolate")
_told = partial(handles, when=on_rank(0), priority=Priority.REPORT, on_error="isolate")


class ConsoleLog:
    """Prints a line every so many steps, for each epoch and validation, and for what befalls a run.

    ::

        run started: 30 epochs
        epoch  1/30  step     50  loss 0.51230    lr 0.00100    4210 samples/s  eta 3:05
        epoch  1/30  step    469  val  val_loss 0.11820    val_accuracy 0.96410
        epoch  1/30  step    469  done  loss 0.28640    val_loss 0.11820    lr 0.00100    eta 2:58
        epoch  1/30  step    469  2 batches skipped, the first: not finite in step 17: loss is nan
        checkpoint saved: runs/digits/step-00000469-0001
        stop requested by EarlyStopping: the loss does not fall any more
        run finished after 1:04: the loss does not fall any more

    Samples per second are those of training since the line before; steps per second where the loop
    tells no `batch_size`. The clock stands still from the beginning of a validation until the next
    step has ended, which is not counted either: what handlers do meanwhile is not slow training.
    The time that is left is guessed from the whole of this run so far. Where nobody reads the lines
    any more (a pipe into `head`, a stream that was closed) it says so once, and prints no more.

    ==================  =====================================================================
    signals consumed    `run_started`, `run_finished`, `run_failed`, `epoch_*`, `loader_opened`,
                        `batch_loaded`, `batch_finished`, `batch_skipped`, `validation_started`,
                        `validation_done`, `validation_interrupted`, `learning_rate_changed`,
                        `checkpoint_saved`, `stop_requested`, `run_closed`
    values produced     lines of text
    cost                each step: a count. Each line: reading the metrics, one transfer from
                        the device
    state               none
    band, errors        REPORT; isolated; rank 0 prints
    ==================  =====================================================================

    Parameters
    ----------
    when
        A filter on `batch_finished`: which steps get a line.
    stream
        Where to; whatever `sys.stdout` is at the time, unless given.
    monotonic
        The clock for rates and the time left, in seconds.

    Examples
    --------
    >>> from eventbus import EventBus, every
    >>> from eventbus.handlers import ConsoleLog
    >>> bus = EventBus()
    >>> with bus.attach(ConsoleLog(when=every(2), monotonic=lambda: 0.0)):
    ...     _ = bus.emit("run_started", epochs=3)
    ...     for step in (1, 2):
    ...         _ = bus.emit("batch_finished", epoch=1, step=step, metrics={"loss": 1 / step})
    run started: 3 epochs
    epoch 1/3  step      2  loss 0.50000
    """

    def __init__(
        self,
        *,
        when: When | None = None,
        stream: TextIO | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._unread: TextIO | None = None  # where a line has found that nobody reads any more
        self._progress = Progress(monotonic)
        self._throughput = Throughput(monotonic)
        self._per_second = "steps/s"
        self._learning_rates: Mapping[str, float] = {}
        self._skips = Skips()
        self._has_failed = False
        due = (every(50) if when is None else when) & on_rank(0)
        mark = _told("batch_finished", when=due, background=False)
        self.step = mark(self.step)  # type: ignore[method-assign]  # marked with what was asked for

    # -- what is counted

    @_told("run_started")
    def start(
        self,
        epochs: int | None = None,
        steps: int | None = None,
        resumed_from: str | None = None,
    ) -> None:
        """Say how long the run is to be."""
        self._progress.start(epochs, steps, resumed=resumed_from is not None)
        self._learning_rates = {}
        self._has_failed = False
        self._skips.take()
        totals = [_numbered(epochs, "epoch"), _numbered(steps, "step")]
        origin = f"resumed from {resumed_from}" if resumed_from is not None else ""
        told = ", ".join(part for part in (*totals, origin) if part)
        self._say(f"run started: {told}" if told else "run started")

    @_counted("epoch_started")
    def start_epoch(self, epoch: int, step: int) -> None:
        """Begin to count."""
        self._progress.start_epoch(epoch, step)
        self._throughput.resume()

    @_counted("loader_opened")
    def open_loader(self, loader: object) -> None:
        """Learn how many batches there are."""
        self._progress.batches = size_of(loader)

    @_counted("batch_loaded")
    def count_batch(self, batch_index: int | None = None) -> None:
        """Count a micro-batch."""
        self._progress.batch_index = batch_index or 0

    @_counted("learning_rate_changed")
    def note_learning_rates(self, learning_rates: Mapping[str, float]) -> None:
        """Keep the learning rates for the next line, beside those of other optimizers."""
        self._learning_rates = {**self._learning_rates, **learning_rates}

    @_counted("batch_finished")
    def count(self, epoch: int, step: int, batch_size: int | None = None) -> None:
        """Count a step."""
        self._progress.reach(epoch, step)
        self._skips.go_on()
        self._per_second = "steps/s" if batch_size is None else "samples/s"
        self._throughput.add(1 if batch_size is None else batch_size)

    @_counted("batch_skipped", when=on_rank(0))
    def count_skip(self, event: Event, reason: str | None = None) -> None:
        """Count a batch that was skipped."""
        self._skips.note(reason, by_handler=event.emitter.answers.skip is not None)

    @_counted("validation_started")
    def start_validation(self) -> None:
        """Stop the clock of training, until a step has ended."""
        self._throughput.pause()

    # -- what is said

    def step(
        self,
        epoch: int,
        step: int,
        metrics: Mapping[str, Any] | None = None,
        loss: Any = None,
        optimizers: Mapping[str, Any] | None = None,
    ) -> None:
        """Print the line of a step. Reads the metrics, which synchronises with their device."""
        if metrics is None and loss is not None:
            metrics = {"loss": loss}
        rate = self._throughput.read()
        speed = "" if rate is None else f"{_rate(rate):>7} {self._per_second}"
        self._say(
            *self._place(epoch, step), *_cells(metrics), self._lr(optimizers), speed, self._eta()
        )

    @_told("validation_done")
    def validation(
        self, name: str, epoch: int, step: int, metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Print what a validation found."""
        self._say(*self._place(epoch, step), name, *_cells(metrics))

    @_told("validation_interrupted")
    def interrupt_validation(
        self, name: str, epoch: int, step: int, reason: str | None = None
    ) -> None:
        """Print why a validation has no result."""
        self._say(*self._place(epoch, step), name, _because("interrupted", reason))

    @_told("epoch_finished", background=False)
    def finish_epoch(
        self,
        epoch: int,
        step: int,
        metrics: Mapping[str, Any] | None = None,
        complete: bool = True,
        optimizers: Mapping[str, Any] | None = None,
    ) -> None:
        """Print the line of an epoch."""
        self._throughput.pause()
        self._progress.finish_epoch(epoch, step, complete=complete)
        how = "done" if complete else "cut short"
        self._say(
            *self._place(epoch, step), how, *_cells(metrics), self._lr(optimizers), self._eta()
        )
        self._say_skips(epoch, step, left=not complete)

    @_told("epoch_interrupted")
    def interrupt_epoch(
        self,
        epoch: int,
        step: int,
        reason: str | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Print why an epoch was not finished."""
        self._say(*self._place(epoch, step), _because("interrupted", reason), *_cells(metrics))
        self._say_skips(epoch, step, left=True)

    @_told("checkpoint_saved")
    def saved(self, path: str) -> None:
        """Print where a checkpoint is."""
        self._say(f"checkpoint saved: {_from_here(path)}")

    @_told("stop_requested")
    def stop(self, reason: str, handler: str | None = None) -> None:
        """Print who wants the run to end, and why."""
        self._say(_because(f"stop requested by {handler}" if handler else "stop requested", reason))

    @_told("run_finished")
    def finish(self, reason: str, epoch: int = 0, step: int = 0) -> None:
        """Print how the run ended."""
        self._say_skips(epoch, step, left=True)  # of a loop without epochs
        self._say(_because(f"run finished after {spell(self._progress.elapsed_s)}", reason))

    @_told("run_failed")
    def fail(self, exception: BaseException, epoch: int = 0, step: int = 0) -> None:
        """Print what ended the run."""
        self._has_failed = True
        self._say_skips(epoch, step, left=True)
        self._say(f"run failed after {spell(self._progress.elapsed_s)}: {plain(exception)}")

    @_told("run_closed")
    def close(self, outcome: str) -> None:
        """Print that the run failed, where nothing told of it: its end itself may fail."""
        is_told, self._has_failed = self._has_failed, False
        if outcome == "failed" and not is_told:
            self._say(f"run closed as failed after {spell(self._progress.elapsed_s)}")

    # -- how it is worded

    def _place(self, epoch: int, step: int) -> tuple[str, str]:
        epochs, steps = self._progress.epochs, self._progress.steps
        in_epoch = f"epoch {_of(epoch, epochs, 1)}" if epoch else ""  # 0: a loop without epochs
        return in_epoch, f"step {_of(step, steps, _STEP_WIDTH)}"

    def _lr(self, optimizers: Mapping[str, Any] | None) -> str:
        rates = _rates_of(optimizers or {}) or list(self._learning_rates.values())
        distinct = dict.fromkeys(f"{float(rate):.4g}" for rate in rates)
        return f"lr {' '.join(distinct):<{_VALUE_WIDTH}}" if distinct else ""

    def _eta(self) -> str:
        left = self._progress.eta_s()
        return "" if left is None else f"eta {spell(left)}"

    def _say_skips(self, epoch: int, step: int, *, left: bool) -> None:
        if told := self._skips.take(left=left):
            self._say(*self._place(epoch, step), told)

    def _say(self, *cells: str) -> None:
        line = " ".join("  ".join(cell for cell in cells if cell).rstrip().splitlines())
        stream = sys.stdout if self._stream is None else self._stream
        if stream is self._unread:  # print does nothing either where there is none at all
            return
        try:
            _print(line, stream)
        except (BrokenPipeError, ValueError) as error:  # ValueError: it is closed
            self._unread = stream
            _log.warning("ConsoleLog prints no more, nobody reads it: %s", error)


def _print(line: str, stream: TextIO | None) -> None:
    try:
        print(line, file=stream, flush=True)
    except UnicodeEncodeError:  # a terminal that knows only ASCII
        print(line.encode("ascii", "backslashreplace").decode(), file=stream, flush=True)


def _numbered(total: int | None, what: str) -> str:
    return f"{total} {what}{'' if total == 1 else 's'}" if total else ""


def _of(count: int, total: int | None, width: int) -> str:
    if total is None:
        return f"{count:>{width}}"
    return f"{count:>{len(str(total))}}/{total}"


def _cells(metrics: Mapping[str, Any] | None) -> list[str]:
    return [
        f"{name} {_number(value):<{_VALUE_WIDTH}}" for name, value in plain(metrics or {}).items()
    ]


def _number(value: Any) -> str:
    return f"{value:#.5g}".rstrip(".") if isinstance(value, float) else str(value)


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}" if per_second < 100 else f"{per_second:.0f}"


def _because(what: str, reason: str | None) -> str:
    return f"{what}: {reason}" if reason else what


def _from_here(path: str) -> str:
    """Word a path as one would write it where the process is."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (ValueError, OSError):  # it is elsewhere, or this place was deleted
        return path


def _rates_of(optimizers: Mapping[str, Any]) -> list[float]:
    groups = [group for each in optimizers.values() for group in getattr(each, "param_groups", ())]
    return [group["lr"] for group in groups if "lr" in group]
