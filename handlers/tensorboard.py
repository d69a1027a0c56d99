"""The run in TensorBoard: curves, histograms, pictures, texts, hyperparameters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from eventbus import Event, Filter, Priority, handles, on_rank
from eventbus.handlers import _summaries
from eventbus.handlers._arguments import When
from eventbus.handlers._configs import flat_settings_of
from eventbus.handlers._event_files import EventFiles
from eventbus.handlers._paths import RunNames
from eventbus.handlers._requires import require
from eventbus.handlers._tracker import Tracker

__all__ = ["TensorBoard"]


class TensorBoard(Tracker):
    """Writes event files that `tensorboard --logdir runs` shows, while the run goes on and after.

    Curves are over optimizer steps: `step/loss`, `epoch/loss`, `validation/val_loss`,
    `learning_rate/<group>`, and `measured/<name>` for what other handlers measure: tensors within a
    step (the gradient norm of `GradientClipping`) where that step is due, all else always. What
    comes from another sender than the run's own has its label in front: `generator/step/loss`. The
    run's config appears in the HParams tab, with every curve as a metric. Texts are Markdown.

    A resumed run goes on in the folder of its checkpoint, and its curves as if it had never been
    interrupted: what was filed after the checkpoint is dropped. A new run begins a new folder;
    where another's event files are in it already, `name.1`, `name.2` and so on. A file or folder
    that is deleted or moved meanwhile is begun anew, and a warning says so.

    Each record is in the file at once, whatever kills the process, and there is no background
    thread: a full disk is an error where it happens, there is nothing to flush, and a handler that
    nobody closes loses nothing.

    ==================  =====================================================================
    signals consumed    `batch_finished`, `batch_skipped`, `epoch_finished`, `validation_done`,
                        `metrics_measured`, `learning_rate_changed`, `figure_drawn`,
                        `text_written`, `run_opened`, `run_started`, `run_closed`; for histograms
                        `backward_finished`
    values produced     files
    cost                a step that is due, an epoch, a validation, what is measured outside of
                        steps, or by the loop: reading its metrics, one transfer from the device,
                        and one write, 0.1 ms. A number that a handler measures, a learning rate
                        that changes: one write. Histograms, where due: copying all weights and
                        gradients to the host. Other steps: nothing
    state               the folder, the last step, and what was filed under it
    needs               tensorboard: `pip install 'training-eventbus[tensorboard]'`
    band, errors        REPORT; isolated; rank 0 writes
    ==================  =====================================================================

    Parameters
    ----------
    log_dir
        The folder. `{run}` and `{run_id}` in it become the run's name and id.
    when
        A filter on `batch_finished`: which steps' metrics are filed, and tensors measured in them;
        every 50th, unless given.
    histograms
        A filter on steps: when to file histograms of the weights, after the step, and of the
        gradients, on `backward_finished`, where the loop emits it. Values that are not finite are
        left out. None: never.
    clock
        The wall clock, in seconds since 1970.

    Raises
    ------
    ImportError
        tensorboard is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from eventbus import EventBus, every
    >>> from eventbus.handlers import TensorBoard
    >>> bus, folder = EventBus(), tempfile.mkdtemp()
    >>> with bus.attach(TensorBoard(folder, when=every(10), histograms=every(100))):
    ...     for step in range(1, 31):
    ...         _ = bus.emit("batch_finished", epoch=1, step=step, metrics={"loss": 1 / step})
    >>> from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    >>> [point.step for point in EventAccumulator(folder).Reload().Scalars("step/loss")]
    [10, 20, 30]
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "runs/{run_id}",
        *,
        when: When | None = None,
        histograms: When | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        needs = partial(require, extra="tensorboard", wanted_by="TensorBoard")
        needs("tensorboard.summary.writer.record_writer")
        super().__init__(when)
        self._clock = clock
        self._files = EventFiles(log_dir, clock)
        self._is_session = False
        if histograms is not None:
            self._mark_histograms(on_rank(0) & histograms)

    def _mark_histograms(self, due: Filter) -> None:
        observed = partial(handles, priority=Priority.REPORT, on_error="isolate")
        marked = partial(observed, when=due, background=False)
        weights = marked("batch_finished")(self.log_weights)
        gradients = marked("backward_finished")(self.log_gradients)
        self.log_weights = weights  # type: ignore[method-assign]  # marked with what was asked for
        self.log_gradients = gradients  # type: ignore[method-assign]  # marked with what was asked for

    @property
    def log_dir(self) -> Path | None:
        """The folder of the run under way; None until something is filed."""
        return self._files.folder

    def log_weights(self, event: Event, models: Mapping[str, Any] | None = None) -> None:
        """File histograms of the weights. Copies them to the host."""
        tensors = {f"weights/{name}": each for name, each in _parameters(models or {})}
        self._put(event, self._write_histograms, tensors)

    def log_gradients(self, event: Event, models: Mapping[str, Any] | None = None) -> None:
        """File histograms of the gradients. Copies them to the host."""
        found = ((name, each.grad) for name, each in _parameters(models or {}))
        tensors = {f"gradients/{name}": grad for name, grad in found if grad is not None}
        self._put(event, self._write_histograms, tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the files, which are on the disk up to there."""
        return {"last_step": self._step, **self._files.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a position; what was filed after it is dropped."""
        self._note_given()
        self._step = state["last_step"]
        self._files.resume(state)

    # -- what a tracker does with it

    def _renew(self) -> None:
        self._files.renew()

    def _begin(self, names: RunNames, config: Any) -> None:
        settings = flat_settings_of(config)
        self._is_session = bool(settings)
        if settings:
            start = _summaries.session_start(settings, self._clock())
            self._files.write(names, [start], self._step)

    def _end(self, names: RunNames, outcome: str) -> None:
        if self._is_session:
            self._is_session = False
            end = _summaries.session_end(outcome, self._clock())
            self._files.write(names, [end], self._step)

    def _write_scalars(self, names: RunNames, scalars: Mapping[str, float], step: int) -> None:
        values = [_summaries.scalar(tag, number) for tag, number in scalars.items()]
        self._files.write(names, values, step)

    def _write_picture(self, names: RunNames, tag: str, png: bytes, step: int) -> None:
        self._files.write(names, [_summaries.picture(tag, png)], step)

    def _write_text(self, names: RunNames, tag: str, text: str, step: int) -> None:
        self._files.write(names, [_summaries.text(tag, text)], step)

    def _write_histograms(self, names: RunNames, tensors: Mapping[str, Any], step: int) -> None:
        for tag, tensor in tensors.items():  # a record for each: one of all could be huge
            value = _summaries.histogram(tag, tensor)
            if value is not None:
                self._files.write(names, [value], step)


def _parameters(models: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for label, model in models.items():
        ahead = "" if len(models) == 1 else f"{label}."
        for name, parameter in getattr(model, "named_parameters", tuple)():
            yield f"{ahead}{name}", parameter
