"""What experiment trackers have in common: which signal gives which curve, picture and text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from eventbus import Event, Priority, every, handles, on_rank
from eventbus.handlers._arguments import When
from eventbus.handlers._one_run import OfOneRun
from eventbus.handlers._paths import RunNames
from eventbus.handlers._pictures import png_of
from eventbus.handlers._rows import plain

_isolated = partial(handles, on_error="isolate")
_told = partial(_isolated, when=on_rank(0), priority=Priority.REPORT)


_OF_STEPS = ("batch_loaded", "batch_started", "backward_finished", "batch_finished")


@dataclass
class _OfStep:
    """What was measured within one step, and whether the step turned out to be due."""

    step: int | None
    waiting: list[Mapping[str, Any]] = field(default_factory=list)
    is_due: bool = False

    def take(self) -> list[Mapping[str, Any]]:
        """Return what waits, now that the step is due; what is still to come need not wait."""
        waiting, self.waiting, self.is_due = self.waiting, [], True
        return waiting


def _is_within_a_step(event: Event | None) -> bool:
    while event is not None and event.name not in _OF_STEPS:
        event = event.outer
    return event is not None


class Tracker(OfOneRun):
    """Files numbers, pictures and texts under tags, by step.

    Numbers go under `step/`, `epoch/`, `validation/`, `measured/` and `learning_rate/`, by where
    they come from; pictures and texts under their own tags. What comes from another sender than
    the run's own has that sender's label in front.

    Only `run_started` tells whether a run resumes, so what comes between `run_opened` and that is
    held in memory. What has no step is filed under the last one.

    Tensors that are measured within a step's emissions wait, unread, for the end of the step: they
    are filed where that is due. Numbers cost no transfer, and come when their handler is due.
    """

    def __init__(self, when: When | None) -> None:
        self._held: list[Callable[[], None]] | None = None
        self._measured: dict[str | None, _OfStep] = {}  # by sender
        self._sender: str | None = None
        self._step = 0
        due = on_rank(0) & (every(50) if when is None else when)
        mark = handles("batch_finished", when=due, priority=Priority.REPORT, on_error="isolate")
        self.log_step = mark(self.log_step)  # type: ignore[method-assign]  # marked with what was asked for

    # -- what a tracker does with it

    @abstractmethod
    def _write_scalars(self, names: RunNames, scalars: Mapping[str, float], step: int) -> None:
        """File numbers by tag."""

    @abstractmethod
    def _write_picture(self, names: RunNames, tag: str, png: bytes, step: int) -> None:
        """File a picture."""

    @abstractmethod
    def _write_text(self, names: RunNames, tag: str, text: str, step: int) -> None:
        """File a text."""

    @abstractmethod
    def _renew(self) -> None:
        """Forget the run before: another begins."""

    @abstractmethod
    def _begin(self, names: RunNames, config: Any) -> None:
        """A run begins or goes on; whether it does was told by `_renew` or its absence."""

    @abstractmethod
    def _end(self, names: RunNames, outcome: str) -> None:
        """A run is over."""

    # -- the run

    @_told("run_opened", priority=Priority.REPORT + 1)
    def hold(self) -> None:
        """Keep what comes until it is known whether the run resumes."""
        self._held = []

    @_isolated("run_started", priority=Priority.REPORT + 2)
    def start(self, event: Event) -> None:
        """Forget the run before, unless this one goes on from a checkpoint."""
        self._begin_run(event)

    def _start_over(self) -> None:
        self._step, self._sender = 0, None
        self._measured.clear()
        self._renew()

    @_told("run_started", priority=Priority.REPORT + 1)
    def begin(self, event: Event, config: Any = None) -> None:
        """File what the run is, and what was held."""
        self._sender = event.sender
        try:
            self._begin(RunNames.of(event), config)
        finally:
            self._release()

    @_told("run_closed", priority=Priority.REPORT - 1)
    def close(self, event: Event, outcome: str) -> None:
        """File what was held, and how the run ended."""
        try:
            self._release()
        finally:
            self._end(RunNames.of(event), outcome)

    # -- numbers

    def log_step(
        self, event: Event, metrics: Mapping[str, Any] | None = None, loss: Any = None
    ) -> None:
        """File a step's metrics. Reading them synchronises with their device."""
        told = {"loss": loss} if metrics is None and loss is not None else metrics
        self._scalars(event, "step", told)
        for measured in self._of_step(event).take():
            self._scalars(event, "measured", measured)

    @_told("epoch_finished")
    def log_epoch(self, event: Event, metrics: Mapping[str, Any] | None = None) -> None:
        """File an epoch's metrics. Reading them synchronises with their device."""
        self._scalars(event, "epoch", metrics)

    @_told("validation_done")
    def log_validation(self, event: Event, metrics: Mapping[str, Any] | None = None) -> None:
        """File a validation's metrics. Reading them synchronises with their device."""
        self._scalars(event, "validation", metrics)

    @_told("metrics_measured")
    def log_measured(self, event: Event, metrics: Mapping[str, Any]) -> None:
        """File what a handler measured; within a step what is on a device only where that is due.

        Reading that synchronises with it.
        """
        if not _is_within_a_step(event) or self._of_step(event).is_due:
            self._scalars(event, "measured", metrics)
            return
        unread = {name: value for name, value in metrics.items() if hasattr(value, "detach")}
        self._of_step(event).waiting.append(unread)
        numbers = {name: value for name, value in metrics.items() if name not in unread}
        self._scalars(event, "measured", numbers)

    @_told("batch_skipped")
    def forget_measured(self, event: Event) -> None:
        """What was measured in a step that is not taken is not for the one of its number."""
        self._measured.pop(event.sender, None)

    @_told("learning_rate_changed")
    def log_learning_rates(self, event: Event, learning_rates: Mapping[str, float]) -> None:
        """File the learning rates."""
        self._scalars(event, "learning_rate", learning_rates)

    # -- pictures and texts

    @_told("figure_drawn")
    def log_figure(self, event: Event, tag: str, figure: Any) -> None:
        """File a picture."""
        self._put(event, self._write_picture, self._tag(event, tag), png_of(figure))

    @_told("text_written")
    def log_text(self, event: Event, tag: str, text: str) -> None:
        """File a text."""
        self._put(event, self._write_text, self._tag(event, tag), text)

    # -- the parts

    def _scalars(self, event: Event, group: str, values: Mapping[str, Any] | None) -> None:
        told = plain(values) if values else {}
        numbers = {
            self._tag(event, group, name): float(value)
            for name, value in told.items()
            if isinstance(value, (int, float))
        }
        if numbers:
            self._put(event, self._write_scalars, numbers)

    def _of_step(self, event: Event) -> _OfStep:
        """Return what is known of the step that an emission belongs to."""
        step, known = event.fields.get("step"), self._measured.get(event.sender)
        if known is None or known.step != step:
            known = self._measured[event.sender] = _OfStep(step)
        return known

    def _tag(self, event: Event, *parts: str) -> str:
        if self._sender is None:
            self._sender = event.sender
        label = () if event.sender in (None, self._sender) else (event.sender,)
        return "/".join((*label, *parts))

    def _put(self, event: Event, write: Callable[..., None], *what: Any) -> None:
        step = event.fields.get("step")
        self._step = self._step if step is None else step
        record = partial(write, RunNames.of(event), *what, self._step)
        if self._held is None:
            record()
        else:
            self._held.append(record)

    def _release(self) -> None:
        held, self._held = self._held or [], None
        for record in held:
            record()
