"""Whether a loop heeds what handlers want: each that does not is told what it does instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from eventbus import Emitter, EventBus, Restored, RestoredState
from eventbus.testing import LoopError, check_loop, watch_loop

Heeds = frozenset[str]
ALL = frozenset({"Stop", "StopEpoch", "load", "backward", "failure", "reason", "exception"})


class ByHand:
    """A loop by hand, of two epochs with two steps, that heeds what it is told to heed."""

    def __init__(self, bus: EventBus, heeds: Heeds = ALL) -> None:
        self.loop: Emitter = bus.bind(sender="train", model="a model", optimizer="an optimizer")
        self.heeds = heeds
        self.epoch = self.step = 0

    @property
    def place(self) -> dict[str, int]:
        return {"epoch": self.epoch, "step": self.step}

    def stopped(self, kind: str = "Stop") -> bool:
        answers = self.loop.answers
        found = {"Stop": answers.stop, "StopEpoch": answers.stop_epoch, "load": answers.skip}
        return kind in self.heeds and found[kind] is not None

    @contextmanager
    def closing(self, signal: str, **fields: Any) -> Iterator[None]:
        """Close what is open, whatever is raised."""
        try:
            yield
        except Exception as error:
            if "failure" in self.heeds:
                self.loop.emit(signal, **self.place, **fields, **self.said(signal, error))
            raise

    def said(self, signal: str, error: Exception) -> Mapping[str, Any]:
        return {"exception": error} if signal == "run_failed" else {"reason": repr(error)}

    def run(self) -> None:
        outcome = "failed"
        self.loop.emit("run_opened")
        try:
            with self.closing("run_failed"):
                self.loop.emit("run_started", epochs=2)
                while self.epoch < 2 and not self.stopped():
                    self.epoch += 1
                    self.run_epoch()
                outcome = self.finish()
        except Exception:
            if "exception" in self.heeds:
                raise
        finally:
            if "failure" in self.heeds or outcome != "failed":
                self.loop.emit("run_closed", outcome=outcome)

    def finish(self) -> str:
        stop = self.loop.answers.stop
        reason = stop.reason if stop and "reason" in self.heeds else "completed"
        self.loop.emit("run_finished", reason=reason, metrics={"loss": 1.0}, **self.place)
        return "completed" if reason == "completed" else "stopped"

    def run_epoch(self) -> None:
        ended = {"metrics": {"loss": 1.0}}
        self.loop.emit("epoch_started", **self.place)
        with self.closing("epoch_interrupted", **ended):
            self.loop.transform("loader_opened", [1, 2], **self.place)
            left = 2
            while left and not self.stopped() and not self.stopped("StopEpoch"):
                left -= 1
                self.run_step(batch_index=2 - left)
        if left and self.stopped():
            self.loop.emit("epoch_interrupted", reason="stopped", **self.place, **ended)
        else:
            self.loop.emit("epoch_finished", complete=not left, **self.place, **ended)

    def run_step(self, batch_index: int) -> None:
        place = {"epoch": self.epoch, "step": self.step + 1}
        self.loop.transform("batch_loaded", "data", batch_index=batch_index, **place)
        if self.stopped("load"):
            self.loop.emit("batch_skipped", reason="refused", **place)
            return
        self.loop.emit("batch_started", **place)
        answers = self.loop.emit("backward_finished", loss=1.0, **place)
        if answers.skip is not None and "backward" in self.heeds:
            self.loop.emit("batch_skipped", reason="refused", **place)
            return
        self.step += 1
        numbers = {"loss": 1.0, "metrics": {"loss": 1.0}, "batch_size": 1}
        self.loop.emit("batch_finished", **place, **numbers)


def heeding(*but: str) -> Callable[[EventBus], None]:
    return lambda bus: ByHand(bus, ALL - set(but)).run()


def test_a_loop_by_hand_that_heeds_all_answers_passes() -> None:
    report = check_loop(heeding())
    assert (report.violations, report.notes, report.runs) == ((), (), 7)


@pytest.mark.parametrize(
    ("ignored", "given", "signal", "message"),
    [
        (
            "Stop",
            "Stop at batch_finished",
            "batch_loaded",
            "loads another batch after Stop('check_loop tries it') was given",
        ),
        (
            "StopEpoch",
            "StopEpoch at batch_finished",
            "batch_loaded",
            "loads another batch of the epoch after StopEpoch('check_loop tries it') was given",
        ),
        (
            "load",
            "SkipBatch at batch_loaded",
            "batch_started",
            "starts a step that SkipBatch('check_loop tries it') had refused before",
        ),
        (
            "backward",
            "SkipBatch at backward_finished",
            "batch_finished",
            (
                "step 1 was to be skipped, as SkipBatch('check_loop tries it') wanted: "
                "batch_skipped comes in its place"
            ),
        ),
        (
            "failure",
            "a handler that fails at batch_finished",
            "batch_finished",
            "nothing of the run came after it: run_closed is always the last",
        ),
        (
            "exception",
            "a handler that fails at batch_finished",
            "run_closed",
            "a handler's exception did not come out of the loop",
        ),
        (
            "reason",
            "Stop at batch_finished",
            "run_finished",
            "says reason 'completed'; the Stop's is 'check_loop tries it'",
        ),
    ],
)
def test_a_loop_that_does_not_heed_an_answer_is_told(
    ignored: str, given: str, signal: str, message: str
) -> None:
    first, *others = check_loop(heeding(ignored)).violations
    assert (first.given, first.signal, first.message) == (given, signal, message)
    assert all(other.rule in ("answers", "order", "counts") for other in others)


@pytest.mark.parametrize(
    ("ignored", "cannot"),
    [
        ("StopEpoch", {"StopEpoch"}),
        ("load", {"SkipBatch at batch_loaded"}),
        ("backward", {"SkipBatch at backward_finished"}),
        ("failure", {"run_failed"}),
    ],
)
def test_what_a_loop_cannot_serve_is_noted_and_not_asked_for(
    ignored: str, cannot: set[str]
) -> None:
    report = check_loop(heeding(ignored), cannot=cannot)
    assert report.violations == ()
    assert report.notes == (f"{min(cannot)} is not possible in this loop, as was said",)


def test_a_limit_that_is_misspelt_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not know 'SkipBach'; did you mean 'SkipBatch'"):
        check_loop(heeding(), cannot={"SkipBach"})
    with pytest.raises(TypeError, match="takes a set of names; got the string 'Stop'"):
        check_loop(heeding(), cannot="Stop")


def test_a_stop_epoch_that_ends_the_run_is_told() -> None:
    class TakesItForStop(ByHand):
        def run_epoch(self) -> None:
            super().run_epoch()
            if self.step == 1:
                self.epoch = 2  # leaves

    def train(bus: EventBus) -> None:
        TakesItForStop(bus).run()

    messages = [violation.message for violation in check_loop(train).violations]
    assert "StopEpoch ends one epoch, not the run: 1 of 2 epochs began" in messages


def test_restored_state_that_the_start_does_not_tell_of_is_told() -> None:
    bus = EventBus()

    @bus.on("run_opened")
    def resume(bus: EventBus) -> Restored:
        bus.emit("state_restored", state=RestoredState({}), path="runs/1")
        return Restored("runs/1")

    with watch_loop(bus) as report:
        ByHand(bus).run()
    (violation,) = report.violations
    assert violation.message == (
        "says nothing in 'resumed_from', though state was restored in run_opened: "
        "what was restored will be reset"
    )


# -- what the loop raises


def failing(bus: EventBus) -> None:
    @bus.on("batch_finished")
    def fail(step: int) -> None:
        if step == 2:
            raise ZeroDivisionError("planned")

    ByHand(bus).run()


def test_what_the_loop_raises_comes_out_with_the_report_as_a_note() -> None:
    def train(bus: EventBus) -> None:
        bus.bind(sender="train").emit("run_opened")
        raise ZeroDivisionError("planned")

    with pytest.raises(ZeroDivisionError, match="planned") as raised:
        check_loop(train)
    (note,) = raised.value.__notes__
    assert "emission 1, run_opened: nothing of the run came after it" in note


def test_what_the_loop_raises_is_kept_where_it_is_expected() -> None:
    report = check_loop(failing, expect=ZeroDivisionError)
    assert str(report.error) == "planned"
    assert report.violations == ()
    assert report.runs == 1


def test_a_loop_that_does_not_raise_what_was_expected_is_told() -> None:
    (violation,) = check_loop(heeding(), expect=(OSError, KeyError)).violations
    assert violation.message == "the loop raised nothing; OSError or KeyError was expected"


def test_a_loop_that_fails_in_a_trial_alone_says_in_which() -> None:
    def train(bus: EventBus) -> None:
        bus.on("batch_skipped")(lambda: 1 / 0)
        ByHand(bus).run()

    with pytest.raises(ZeroDivisionError) as raised:
        check_loop(train)
    assert "raised while check_loop ran the loop with SkipBatch at batch_loaded" in (
        raised.value.__notes__
    )


def test_a_loop_that_breaks_no_rule_raises_nothing() -> None:
    check_loop(heeding()).raise_if_any()


def test_violations_are_raised_as_a_failure_that_lists_them() -> None:
    report = check_loop(heeding("Stop"))
    with pytest.raises(LoopError, match="violations in") as raised:
        report.raise_if_any()
    assert isinstance(raised.value, AssertionError)
    assert raised.value.violations == report.violations
    assert raised.value.signal == "batch_loaded"
    assert str(report.violations[0]) in str(raised.value)
