"""Answers: what handlers return, how long it is pending, and that nothing undoes it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
import torch

from eventbus import Emitter, EventBus, Restored, SkipBatch, State, Stop, StopEpoch

from .recorders import MISTAKE, answer_to, assert_says, notes_of


def test_without_answers_nothing_is_pending(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished")(lambda: None)
    answers = loop.emit("batch_finished", epoch=1, step=1)
    assert (answers.stop, answers.stop_epoch, answers.skip) == (None, None, None)
    assert (list(answers), tuple(answers.given), answers.restored) == ([], (), None)


def test_an_answer_says_what_why_and_who(bus: EventBus, loop: Emitter) -> None:
    @bus.on("epoch_finished")
    def good_enough(epoch: int) -> Stop:
        return Stop("good enough", exit_code=3)

    stop = loop.emit("epoch_finished", epoch=1, step=1).stop
    assert stop is not None
    assert (stop.reason, stop.exit_code) == ("good enough", 3)
    assert "good_enough" in stop.by


def test_the_name_of_the_subscription_says_who(bus: EventBus, loop: Emitter) -> None:
    bus.on("epoch_finished", name="patience")(lambda: Stop("enough"))
    stop = loop.emit("epoch_finished", epoch=1, step=1).stop
    assert stop is not None
    assert stop.by == "patience"


def test_several_answers_are_given_as_a_list(bus: EventBus, loop: Emitter) -> None:
    answer_to(bus, "backward_finished", [SkipBatch("nan"), StopEpoch("nan"), Stop("nan")])
    answers = loop.emit("backward_finished", epoch=1, step=1)
    assert [type(answer) for answer in answers] == [SkipBatch, StopEpoch, Stop]


def test_an_empty_list_is_no_answer(bus: EventBus, loop: Emitter) -> None:
    answer_to(bus, "batch_finished", [])
    assert list(loop.emit("batch_finished", epoch=1, step=1)) == []


def test_the_first_of_a_kind_counts_and_none_is_overwritten(bus: EventBus, loop: Emitter) -> None:
    answer_to(bus, "batch_finished", Stop("first"))
    answer_to(bus, "batch_finished", Stop("second"))
    answers = loop.emit("batch_finished", epoch=1, step=1)
    assert answers.stop is not None
    assert answers.stop.reason == "first"
    assert [answer.reason for answer in answers] == ["first", "second"]
    answer_to(bus, "batch_finished", Stop("third"))
    answers = loop.emit("batch_finished", epoch=1, step=2)
    assert [answer.reason for answer in answers] == ["first", "second", "third"]


def test_handlers_after_an_answer_still_run(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []
    answer_to(bus, "batch_finished", Stop("now"))
    bus.on("batch_finished")(lambda: seen.append("ran"))
    loop.emit("batch_finished", epoch=1, step=1)
    assert seen == ["ran"]


def test_given_holds_only_the_answers_of_this_emission(bus: EventBus, loop: Emitter) -> None:
    answer_to(bus, "batch_finished", Stop("now"))
    assert len(loop.emit("batch_finished", epoch=1, step=1).given) == 1
    later = loop.emit("batch_finished", epoch=1, step=2)
    assert (len(later.given), later.stop is not None) == (0, True)


def test_the_emitter_shows_what_is_pending_now(bus: EventBus, loop: Emitter) -> None:
    assert loop.answers.stop is None
    answer_to(bus, "batch_finished", Stop("now"))
    loop.emit("batch_finished", epoch=1, step=1)
    assert loop.answers.stop is not None


@pytest.mark.parametrize("kind", [Stop, StopEpoch, SkipBatch])
def test_an_answer_class_is_an_error(bus: EventBus, loop: Emitter, kind: type) -> None:
    bus.on("batch_finished")(lambda: kind)
    with pytest.raises(MISTAKE) as caught:
        loop.emit("batch_finished", epoch=1, step=1)
    assert_says(caught.value, kind.__name__, "lambda")
    assert "batch_finished" in notes_of(caught.value)


@pytest.mark.parametrize("value", [True, False])
def test_a_bool_is_an_error(bus: EventBus, loop: Emitter, value: bool) -> None:
    bus.on("batch_finished")(lambda: value)
    with pytest.raises(MISTAKE) as caught:
        loop.emit("batch_finished", epoch=1, step=1)
    assert_says(caught.value, repr(value), "lambda", "Stop")
    assert "batch_finished" in notes_of(caught.value)


def test_a_coroutine_is_an_error_and_is_closed(bus: EventBus, loop: Emitter) -> None:
    async def later() -> None: ...

    bus.on("batch_finished")(lambda: later())
    with pytest.raises(MISTAKE) as caught:
        loop.emit("batch_finished", epoch=1, step=1)
    assert_says(caught.value, "coroutine", "lambda")
    assert "batch_finished" in notes_of(caught.value)


@pytest.mark.parametrize("wrong", [[Stop], [Stop("yes"), True], [Stop("yes"), "no"]])
def test_a_wrong_answer_within_a_list_is_an_error_too(
    bus: EventBus, loop: Emitter, wrong: object
) -> None:
    bus.on("batch_finished")(lambda: wrong)
    with pytest.raises(MISTAKE):
        loop.emit("batch_finished", epoch=1, step=1)


def test_a_list_may_leave_out_what_is_not_wanted(bus: EventBus, loop: Emitter) -> None:
    """As in `return [self.stop(), self.skip()]`, where each may be None."""
    bus.on("batch_finished")(lambda: [None, Stop("yes")])
    stop = loop.emit("batch_finished", epoch=1, step=1).stop
    assert stop is not None
    assert stop.reason == "yes"


def test_a_mock_that_imitates_an_answer_is_none(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished")(lambda: Mock(spec=Stop("spec")))
    assert list(loop.emit("batch_finished", epoch=1, step=1)) == []


@pytest.mark.parametrize(
    "value", [0, 1, "stop", "", {}, {"stop": True}, 0.5, object(), Mock(), MagicMock(), [1, 2], ()]
)
def test_any_other_value_is_ignored(bus: EventBus, loop: Emitter, value: object) -> None:
    bus.on("batch_finished")(lambda: value)
    assert list(loop.emit("batch_finished", epoch=1, step=1)) == []


def test_a_mock_handler_answers_nothing(bus: EventBus, loop: Emitter) -> None:
    def spec() -> None: ...

    handler = Mock(spec=spec, __name__="mocked", __qualname__="mocked")
    bus.on("batch_finished")(lambda: handler().decision)
    answers = loop.emit("batch_finished", epoch=1, step=1)
    assert (list(answers), handler.call_count) == ([], 1)


@pytest.mark.parametrize("reason", ["", None, 3])
def test_an_answer_needs_a_reason(reason: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        Stop(reason)
    assert_says(caught.value, "reason")


def test_an_answer_cannot_be_changed() -> None:
    stop = Stop("done")
    with pytest.raises(AttributeError):
        stop.reason = "undone"


def test_an_isolated_handler_may_answer(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", on_error="isolate")(lambda: Stop("isolated"))
    assert loop.emit("batch_finished", epoch=1, step=1).stop is not None


def test_answers_given_before_a_failure_are_kept(bus: EventBus, loop: Emitter) -> None:
    def broken() -> None:
        raise ValueError("broken")

    bus.on("batch_finished", priority=1)(lambda: Stop("kept"))
    bus.on("batch_finished")(broken)
    bus.on("batch_finished", priority=-1, on_error="isolate")(lambda: StopEpoch("kept too"))
    with pytest.raises(ValueError, match="broken"):
        loop.emit("batch_finished", epoch=1, step=1)
    assert [answer.reason for answer in loop.answers] == ["kept", "kept too"]


def test_a_plain_blinker_receiver_may_answer(bus: EventBus, loop: Emitter) -> None:
    def plain(sender: object, **fields: object) -> Stop:
        return Stop("from plain blinker")

    bus.signal("batch_finished").connect(plain)
    assert loop.emit("batch_finished", epoch=1, step=1).stop is not None


# -- stop_requested: the bus tells of each accepted Stop


def test_each_stop_is_told_once(bus: EventBus, loop: Emitter) -> None:
    told: list[tuple[str, str]] = []
    bus.on("stop_requested")(lambda reason, handler: told.append((reason, handler)))
    bus.on("batch_finished", name="a")(lambda step: Stop("a") if step == 1 else None)
    bus.on("batch_finished", name="b")(lambda step: Stop("b") if step == 1 else None)
    for step in (1, 2, 3):
        loop.emit("batch_finished", epoch=1, step=step)
    loop.emit("run_closed", outcome="stopped")
    assert told == [("a", "a"), ("b", "b")]


def test_a_stop_given_in_an_emission_that_fails_is_told_too(bus: EventBus, loop: Emitter) -> None:
    told: list[str] = []

    def broken() -> None:
        raise ValueError("broken")

    bus.on("stop_requested")(lambda reason: told.append(reason))
    bus.once("batch_finished", priority=1)(lambda: Stop("kept"))
    bus.once("batch_finished")(broken)
    with pytest.raises(ValueError, match="broken"):
        loop.emit("batch_finished", epoch=1, step=1)
    loop.emit("run_closed", outcome="failed")
    assert told == ["kept"]


def test_stop_epoch_and_skip_are_not_told(bus: EventBus, loop: Emitter) -> None:
    told: list[str] = []
    bus.on("stop_requested")(lambda reason: told.append(reason))
    answer_to(bus, "batch_started", [StopEpoch("no"), SkipBatch("no")])
    loop.emit("batch_started", epoch=1, step=1)
    assert told == []


def test_a_stop_in_answer_to_stop_requested_does_not_go_round(bus: EventBus, loop: Emitter) -> None:
    told: list[str] = []

    @bus.on("stop_requested")
    def me_too(reason: str) -> Stop:
        told.append(reason)
        return Stop("me too")

    answer_to(bus, "batch_finished", Stop("first"))
    answers = loop.emit("batch_finished", epoch=1, step=1)
    assert answers.stop is not None
    assert answers.stop.reason == "first"
    assert len(told) <= 2


# -- state and restored ride on one emission only


def test_state_answers_are_gathered_by_key(bus: EventBus, loop: Emitter) -> None:
    answer_to(bus, "state_requested", [State("a", 1), State("b", 2)])
    answer_to(bus, "state_requested", State("c", 3))
    assert dict(loop.emit("state_requested").state) == {"a": 1, "b": 2, "c": 3}
    assert dict(loop.emit("state_requested").state) == {}


def test_two_states_of_one_key_are_an_error_that_names_both(bus: EventBus, loop: Emitter) -> None:
    bus.on("state_requested", name="one")(lambda: State("scores", 1))
    bus.on("state_requested", name="two")(lambda: State("scores", 2))
    with pytest.raises(MISTAKE) as caught:
        dict(loop.emit("state_requested").state)
    assert_says(caught.value, "scores", "one", "two")


def test_restored_answers_run_opened(bus: EventBus, loop: Emitter) -> None:
    answer_to(bus, "run_opened", Restored("runs/step-120"))
    restored = loop.emit("run_opened").restored
    assert restored is not None
    assert restored.path == "runs/step-120"
    assert loop.emit("run_started").restored is None


def test_restored_takes_any_path_and_nothing_else() -> None:
    assert Restored(Path("runs/step-120")).path == str(Path("runs/step-120"))
    for mistaken in (3, "", None):
        with pytest.raises(TypeError, match=f"Restored takes the path .*; got {mistaken!r}"):
            Restored(mistaken)  # type: ignore[arg-type]  # on purpose


def test_ignored_values_are_not_logged(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("batch_finished")(lambda: "value")
    with caplog.at_level(logging.WARNING, logger="eventbus"):
        loop.emit("batch_finished", epoch=1, step=1)
    assert not caplog.records


@pytest.mark.parametrize("code", ["143", 1.5, True])
def test_an_exit_code_is_a_whole_number(code: Any) -> None:
    with pytest.raises(TypeError, match="exit_code is a whole number"):
        Stop("SIGTERM", exit_code=code)


@pytest.mark.parametrize("kind", [Stop, StopEpoch, SkipBatch])
def test_an_answer_without_a_reason_says_how_to_give_one(kind: Any) -> None:
    with pytest.raises(TypeError) as caught:
        kind()
    assert str(caught.value) == f"{kind.__name__} needs 'reason': {kind.__name__}(reason=...)"


@pytest.mark.parametrize(
    ("kind", "wrong", "told"),
    [
        (StopEpoch, "exit_code", "StopEpoch takes no 'exit_code' (it takes: reason, by)"),
        (Stop, "exitcode", "Stop takes no 'exitcode'; did you mean 'exit_code'?"),
    ],
)
def test_an_answer_names_itself_where_a_keyword_is_wrong(kind: Any, wrong: str, told: str) -> None:
    with pytest.raises(TypeError) as caught:
        kind("enough", **{wrong: 3})
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("key", ["", 5, None])
def test_state_needs_a_key_that_is_a_name(key: Any) -> None:
    with pytest.raises(TypeError, match=f"State takes a key, a non-empty string; got {key!r}"):
        State(key, 1)


@pytest.mark.parametrize(
    "decision", [np.bool_(True), torch.tensor(False), np.array(True)], ids=["numpy", "torch", "0-d"]
)
def test_a_truth_value_of_another_library_decides_nothing_either(
    bus: EventBus, loop: Emitter, decision: object
) -> None:
    bus.on("epoch_finished", name="good_enough")(lambda: decision)
    with pytest.raises(MISTAKE) as caught:
        loop.emit("epoch_finished", epoch=1, step=1)
    assert_says(caught.value, "good_enough", "decides nothing", "return Stop('why'), or None")


@pytest.mark.parametrize("value", [np.float64(0.5), torch.tensor(0.5), torch.tensor([True, False])])
def test_other_values_of_other_libraries_are_ignored(
    bus: EventBus, loop: Emitter, value: object
) -> None:
    bus.on("epoch_finished")(lambda: value)
    assert list(loop.emit("epoch_finished", epoch=1, step=1)) == []


def test_a_transform_may_make_a_truth_value_of_an_array(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_loaded")(lambda batch: np.bool_(False))
    assert loop.transform("batch_loaded", np.bool_(True), epoch=1, step=1) == np.bool_(False)


def test_nothing_is_asked_of_what_a_handler_returns_in_vain(bus: EventBus, loop: Emitter) -> None:
    class Lazy:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError(f"not there yet: {name}")

    bus.on("epoch_finished")(Lazy)
    assert list(loop.emit("epoch_finished", epoch=1, step=1)) == []
