"""Act on a loss, a metric or a gradient that is NaN or infinite."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from eventbus import Event, Priority, SkipBatch, Stop, handles
from eventbus.handlers._arguments import On, When, count_given, signals_given

from ._in_transit import (
    InTransit,
    largest_magnitudes,
    merged,
    not_finite,
    numbers_in,
    send,
    tensors_in,
)
from ._one_run import OfOneRun
from ._parts import bare

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NonFiniteError", "NonFiniteGuard"]

logger = logging.getLogger("eventbus.handlers.non_finite_guard")

_WATCHED = ("loss", "metrics", "gradients")
_ON = "batch_finished"
_MAX_SKIPS = 10
_FIRST = Priority.ALTER + 50  # before clipping, which spreads one NaN to all gradients
_NAMES_TOLD = 5


class NonFiniteError(FloatingPointError):
    """Something in the training is NaN or infinite.

    Attributes
    ----------
    values : dict of str to float
        What it is, by name: "loss", a metric's key, "gradient of layer.weight".
    step : int
        The step that it was seen in, from 1; 0 where the signal told none.
    """

    def __init__(self, message: str, values: Mapping[str, float], step: int) -> None:
        super().__init__(message)
        self.values, self.step = dict(values), step

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.values, self.step)


@dataclass(frozen=True)
class _Sent:
    """What was sent to the host in one step."""

    step: int
    numbers: InTransit


class NonFiniteGuard(OfOneRun):
    """Stop the run, skip the batch or raise when something is NaN or infinite.

    ==================  =====================================================================
    signals consumed    `backward_finished`; unless skipping that of `on`, `epoch_finished` and
                        `epoch_interrupted`; skipping `batch_finished`; `run_started`,
                        `run_finished`, `run_closed`
    values produced     the answer `Stop` or `SkipBatch`, or `NonFiniteError`
    cost                "stop" and "raise": one small copy to the host each step that nobody waits
                        for, and one pass over the gradients; a wait at the end of each epoch.
                        "skip": the same pass, and each step waits for the device
    state               batches skipped, in a row and in all; starts anew with a run that does not
                        resume
    band, errors        gradients: before ALTER, so that clipping has not yet spread a NaN to all of
                        them; else DECIDE; raised
    ==================  =====================================================================

    "stop" and "raise" act once the numbers have arrived: in a later step, mostly the next one, and
    at the latest when the epoch or the run ends. The optimizer has taken the step by then. The
    message names the step concerned. Metrics that are numbers on the host already are acted on at
    once. They act once in a run: what comes after a NaN is NaN.

    So what is saved from that step on holds what came of it, and a checkpoint that is saved where
    "stop" has ended a run is the newest one: ``Checkpoint(resume="auto")`` would load it and be
    stopped again. Go on from the path of an older one, or from the best. With "raise" the run fails
    instead, and nothing is saved at its end (but with `on_failure`).

    Parameters
    ----------
    action
        "stop" answers `Stop`, "raise" raises `NonFiniteError`, "skip" answers `SkipBatch` before
        the optimizer steps. Skipping takes a loop that emits `backward_finished`, with a loss.
    watch
        Any of "loss", "metrics" and "gradients". Gradients are looked at on `backward_finished`.
        Under a gradient scaler, which meets infinite gradients as a matter of course and skips
        such steps itself, leave the gradients out.
    on
        The signal, or signals, whose `loss` and `metrics` are looked at; not for skipping.
    when
        A filter on looking.
    max_skips
        After so many skipped batches in a row the run is stopped, since a skipped step comes again;
        for skipping alone.

    Attributes
    ----------
    skips : int
        Batches skipped in a row, up to now.
    skipped : int
        Batches skipped in this run.

    Examples
    --------
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import NonFiniteGuard
    >>> import torch
    >>> bus = EventBus()
    >>> _ = bus.attach(NonFiniteGuard("stop"))
    >>> loop = bus.bind(sender="train")
    >>> for step, loss in enumerate([0.5, torch.nan, 0.4], start=1):
    ...     answers = loop.emit("batch_finished", epoch=1, step=step, loss=torch.tensor(loss))
    ...     print(step, answers.stop.reason if answers.stop else None)
    1 None
    2 None
    3 not finite in step 2: loss is nan
    """

    def __init__(
        self,
        action: Literal["stop", "skip", "raise"] = "stop",
        *,
        watch: Sequence[str] = _WATCHED,
        on: On = _ON,
        when: When | None = None,
        max_skips: int = _MAX_SKIPS,
    ) -> None:
        self.watch = _watch_given(watch)
        _check(action, self.watch, max_skips)
        self.action, self.max_skips = action, max_skips
        self._sent: deque[_Sent] = deque()
        self._start_over()
        if action == "skip":
            _check_skipping(self.watch, signals_given(on))
            self._mark_skipping(when)
        else:
            self._mark_looking(signals_given(on), when)
        self._mark_ends()

    def _mark_skipping(self, when: When | None) -> None:
        skipping = handles("backward_finished", when=when, priority=_FIRST, background=False)
        self.judge = skipping(self.judge)  # type: ignore[method-assign]  # marked with what was asked for
        hearing = handles("backward_finished", priority=Priority.DECIDE)
        self.hear_gradients = hearing(self.hear_gradients)  # type: ignore[method-assign]  # likewise
        counting = handles("batch_finished", priority=Priority.DECIDE)
        self.hear_step = counting(self.hear_step)  # type: ignore[method-assign]  # likewise

    def _mark_looking(self, on: tuple[str, ...], when: When | None) -> None:
        if "gradients" in self.watch:
            first = handles("backward_finished", when=when, priority=_FIRST, background=False)
            self.look_at_gradients = first(self.look_at_gradients)  # type: ignore[method-assign]  # likewise
        if self.watch != ("gradients",):
            looking = handles(*on, when=when, priority=Priority.DECIDE)
            self.look = looking(self.look)  # type: ignore[method-assign]  # likewise

    def _mark_ends(self) -> None:
        """Mark these last, so that they act on what is looked at on the same signal too."""
        if self.action != "skip":
            settling = handles("epoch_finished", "epoch_interrupted", priority=Priority.DECIDE)
            self.settle = settling(self.settle)  # type: ignore[method-assign]  # likewise
        finishing = handles("run_finished", priority=Priority.DECIDE)
        self.finish = finishing(self.finish)  # type: ignore[method-assign]  # likewise

    def _start_over(self) -> None:
        self.skips = self.skipped = 0
        self.release()

    @handles("run_started", priority=Priority.DECIDE)
    def start(self, event: Event) -> None:
        """Forget all of an earlier run, unless this one resumes."""
        self._begin_run(event)

    @handles("run_closed", priority=Priority.DECIDE)
    def release(self) -> None:
        """Forget what was sent: it concerns this run alone."""
        self._sent.clear()
        self._heard: set[str] = set()
        self._has_acted = False

    # -- stop and raise: look now, act when the numbers are there

    def look_at_gradients(
        self, step: int = 0, models: Mapping[str, Any] | None = None
    ) -> Stop | None:
        """Send the magnitudes of the gradients to the host; act on what has arrived there."""
        answer = self._act_on_arrived()
        self._send(largest_magnitudes(_gradients(models or {})), step)
        return answer

    def look(
        self, step: int = 0, loss: Any = None, metrics: Mapping[str, Any] | None = None
    ) -> Stop | None:
        """Send the loss and the metrics to the host; act on what has arrived there."""
        answer = self._act_on_arrived()
        values = self._watched(loss, metrics)
        self._send(tensors_in(values), step)
        return answer or self._act(not_finite(numbers_in(values)), step)

    def settle(self) -> Stop | None:
        """Act on all that was sent; wait for the device where that is needed."""
        return self._act_on_arrived(wait=True)

    def finish(self) -> Stop | None:
        """Act on what is left; warn where steps were taken of which none could be skipped."""
        if self._heard == {"batch_finished"}:
            logger.warning(
                "NonFiniteGuard could skip no batch: the loop emits no backward_finished"
            )
        return self.settle()

    def _watched(self, loss: Any, metrics: Mapping[str, Any] | None) -> dict[str, Any]:
        told = getattr(metrics, "tensors", metrics) or {}  # unread
        values = dict(told) if "metrics" in self.watch else {}
        values.pop("loss", None)
        loss = told.get("loss") if loss is None else loss
        if "loss" in self.watch and loss is not None:
            values["loss"] = loss
        return values

    def _send(self, values: Mapping[str, Tensor], step: int) -> None:
        self._sent.extend(_Sent(step, numbers) for numbers in send(values))

    def _act_on_arrived(self, *, wait: bool = False) -> Stop | None:
        while self._sent and (wait or self._sent[0].numbers.has_arrived()):
            sent = self._sent.popleft()
            answer = self._act(not_finite(sent.numbers.read()), sent.step)
            if answer is not None:
                return answer
        return None

    def _act(self, found: Mapping[str, float], step: int) -> Stop | None:
        if not found or self._has_acted:
            return None
        self._has_acted = True
        message = _in_words(found, step)
        if self.action == "raise":
            raise NonFiniteError(message, found, step)
        logger.warning(
            "what is saved from step %d on may not be finite: a checkpoint to go on from is an "
            "older one, or the best (resume=<its path>)",
            step,
        )
        return Stop(message)

    # -- skip: look and act at once

    # By two methods that ask for nothing: an event would be made for them at each step.

    def hear_gradients(self) -> None:
        """Note that the loop tells of gradients, whatever the filter says."""
        self._heard.add("backward_finished")

    def hear_step(self) -> None:
        """Note that a step was taken."""
        self._heard.add("batch_finished")

    def judge(
        self, step: int = 0, loss: Any = None, models: Mapping[str, Any] | None = None
    ) -> list[SkipBatch | Stop] | None:
        """Skip the batch if the loss or a gradient is not finite; this waits for the device."""
        values = self._watched(loss, None)
        tensors = tensors_in(values)
        if "gradients" in self.watch:
            tensors |= largest_magnitudes(_gradients(models or {}))
        found = not_finite({**numbers_in(values), **merged(send(tensors))})
        if not found:
            self.skips = 0
            return None
        return self._skip(_in_words(found, step))

    def _skip(self, reason: str) -> list[SkipBatch | Stop]:
        self.skips += 1
        self.skipped += 1
        if self.skips < self.max_skips:
            return [SkipBatch(reason)]
        skipped = "1 batch" if self.skips == 1 else f"{self.skips} batches"
        return [SkipBatch(reason), Stop(f"{skipped} skipped in a row; {reason}")]

    # -- state

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches were skipped."""
        return {"skips": self.skips, "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._note_given()
        self.skips, self.skipped = state["skips"], state["skipped"]


def _gradients(models: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return all gradients there are, by what they are called in a message."""
    found = {}
    for name, model in models.items():
        prefix = f"{name}." if len(models) > 1 else ""
        for parameter_name, parameter in bare(model).named_parameters():
            if parameter.grad is not None:
                found[f"gradient of {prefix}{parameter_name}"] = parameter.grad
    return found


def _in_words(found: Mapping[str, float], step: int) -> str:
    told = [f"{name} is {value}" for name, value in list(found.items())[:_NAMES_TOLD]]
    if len(found) > _NAMES_TOLD:
        told.append(f"and {len(found) - _NAMES_TOLD} more")
    return f"not finite in step {step}: {', '.join(told)}"


def _watch_given(watch: Any) -> tuple[str, ...]:
    if isinstance(watch, str):
        return (watch,)
    if not isinstance(watch, Iterable):
        raise TypeError(f"NonFiniteGuard: watch is a name, or several; got {watch!r}")
    return tuple(watch)


def _check(action: str, watch: tuple[str, ...], max_skips: int) -> None:
    if action not in ("stop", "skip", "raise"):
        raise ValueError(f"NonFiniteGuard: action is 'stop', 'skip' or 'raise', got {action!r}")
    if not watch or not set(watch) <= set(_WATCHED):
        raise ValueError(
            f"NonFiniteGuard: watch is any of {', '.join(map(repr, _WATCHED))}; got {watch!r}"
        )
    count_given("NonFiniteGuard", "max_skips", max_skips, least=1)
    if action != "skip" and max_skips != _MAX_SKIPS:
        raise ValueError(
            f"NonFiniteGuard: max_skips is for action='skip'; got {max_skips!r} with {action!r}"
        )


def _check_skipping(watch: tuple[str, ...], on: tuple[str, ...]) -> None:
    if not set(watch) & {"loss", "gradients"}:
        raise ValueError(f"NonFiniteGuard skips for the loss or gradients; got watch={watch!r}")
    if on != (_ON,):
        raise ValueError(
            f"NonFiniteGuard skips on 'backward_finished' alone, leave on= out; got {on!r}"
        )
