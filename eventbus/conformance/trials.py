"""Trials: the loop runs again, with a handler that answers, or that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventbus.answers import Answer, SkipBatch, Stop, StopEpoch
from eventbus.conformance.run_rules import RunRules

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.event import Event

__all__ = ["TRIALS", "PlannedError", "Trial"]

REASON = "check_loop tries it"


class PlannedError(Exception):
    """Raised by a handler of `check_loop`, to see what the loop makes of it."""


@dataclass(frozen=True)
class Trial:
    """One thing that a handler does the first time that a signal comes.

    Attributes
    ----------
    needs : str
        What the loop must be able to serve: an answer, or `run_failed`.
    signal : str
        Where it is done.
    act : callable
        Answers, or raises.
    judge : callable
        Compares the run in question with the same one without the answer; returns what is wrong in
        it, or None.
    """

    needs: str
    signal: str
    act: Callable[[], Answer | None]
    judge: Callable[[RunRules, RunRules], str | None]

    def __str__(self) -> str:
        what = "a handler that fails" if self.needs == "run_failed" else self.needs
        return f"{what} at {self.signal}"

    def not_possible(self, plain: RunRules) -> str | None:
        """Return why there is nothing to try, in a run that went undisturbed."""
        if not plain.names[self.signal]:
            return f"the loop emits no {self.signal}"
        if self.needs == "StopEpoch" and not plain.names["epoch_started"]:
            return "the loop has no epochs"
        return None

    def attach(self, bus: EventBus) -> Cue:
        """Have it done, once."""
        cue = Cue(self.act)
        bus.on(self.signal, name="check_loop")(cue.act)
        return cue


class Cue:
    """Acts once, and remembers in which run.

    Attributes
    ----------
    run_id : str or None
        Of that run; None as long as it has not acted.
    """

    def __init__(self, act: Callable[[], Answer | None]) -> None:
        self._act = act
        self.run_id: str | None = None

    def act(self, event: Event) -> Answer | None:
        """Answer or raise, the first time."""
        if self.run_id is not None:
            return None
        self.run_id = event.emitter.run_id
        return self._act()


def _fail() -> None:
    raise PlannedError(REASON)


def _judge_stop(run: RunRules, plain: RunRules) -> str | None:
    was_midway = next((steps for steps in plain.steps_in_epochs if steps), 0) > 1
    if was_midway and not plain.steps_in_epochs[0] and not run.interrupted:
        return "a Stop midway leaves the epoch undone: epoch_interrupted comes for epoch_finished"
    return None


def _judge_stop_epoch(run: RunRules, plain: RunRules) -> str | None:
    epochs, before = run.names["epoch_started"], plain.names["epoch_started"]
    if epochs != before:
        return f"StopEpoch ends one epoch, not the run: {epochs} of {before} epochs began"
    return None


def _judge_nothing(run: RunRules, plain: RunRules) -> str | None:
    return None


def _judge_skip(run: RunRules, plain: RunRules) -> str | None:
    if run.names["epoch_started"] != plain.names["epoch_started"]:
        return "SkipBatch skips one step; it ended the epochs early"
    return None


TRIALS = (
    Trial("Stop", "batch_finished", lambda: Stop(REASON), _judge_stop),
    Trial("Stop", "epoch_finished", lambda: Stop(REASON), _judge_nothing),
    Trial("StopEpoch", "batch_finished", lambda: StopEpoch(REASON), _judge_stop_epoch),
    Trial("SkipBatch", "batch_loaded", lambda: SkipBatch(REASON), _judge_skip),
    Trial("SkipBatch", "backward_finished", lambda: SkipBatch(REASON), _judge_skip),
    Trial("run_failed", "batch_finished", _fail, _judge_nothing),
)
"""What `check_loop` tries, each in a run of its own."""
