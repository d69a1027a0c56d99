"""`bus.answer`: a Stop from outside any handler, any thread, or an OS signal handler."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import pytest

from eventbus import Emitter, EventBus, SkipBatch, Stop, StopEpoch, every

from .recorders import MISTAKE, assert_says


def test_an_answer_from_elsewhere_is_pending_at_once(bus: EventBus) -> None:
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    bus.answer(Stop("SIGTERM"), by="the operator")
    stop = loop.answers.stop
    assert stop is not None
    assert (stop.reason, stop.by) == ("SIGTERM", "the operator")
    assert loop.emit("batch_finished", epoch=1, step=1).stop is not None


def test_an_answer_from_another_thread_reaches_the_run(bus: EventBus) -> None:
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    thread = threading.Thread(target=lambda: bus.answer(Stop("from a thread")))
    thread.start()
    thread.join()
    assert loop.emit("batch_finished", epoch=1, step=1).stop is not None


def test_an_answer_from_an_os_signal_handler_reaches_the_run(bus: EventBus) -> None:
    loop = bus.bind(sender="train")
    loop.emit("run_opened")

    def on_signal(number: int, frame: FrameType | None) -> None:
        bus.answer(Stop("SIGUSR1"))

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        bus.on("batch_finished")(lambda: signal.raise_signal(signal.SIGUSR1))
        stop = loop.emit("batch_finished", epoch=1, step=1).stop or loop.answers.stop
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert stop is not None
    assert stop.reason == "SIGUSR1"


def test_an_answer_from_elsewhere_is_told_once(bus: EventBus) -> None:
    told: list[str] = []
    bus.on("stop_requested")(lambda reason: told.append(reason))
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    bus.answer(Stop("SIGTERM"))
    for step in (1, 2):
        loop.emit("batch_finished", epoch=1, step=step)
    assert told == ["SIGTERM"]


def test_an_answer_for_the_current_run_does_not_end_the_next(bus: EventBus) -> None:
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    bus.answer(Stop("this one"))
    loop.emit("run_closed", outcome="stopped")
    assert bus.bind(sender="train").emit("run_opened").stop is None


def test_an_answer_for_all_runs_ends_later_runs_too(bus: EventBus) -> None:
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    bus.answer(Stop("SIGTERM"), runs="all")
    assert loop.answers.stop is not None
    loop.emit("run_closed", outcome="stopped")
    later = bus.bind(sender="train")
    assert later.emit("run_opened").stop is not None
    assert later.answers.stop is not None


def test_an_answer_for_all_runs_reaches_each_open_run(bus: EventBus) -> None:
    loops = [bus.bind(sender="generator"), bus.bind(sender="discriminator")]
    for loop in loops:
        loop.emit("run_opened")
    bus.answer(Stop("SIGTERM"), runs="all")
    assert all(loop.answers.stop is not None for loop in loops)


@pytest.mark.parametrize("answer", [StopEpoch("data"), SkipBatch("batch")])
def test_what_ends_an_epoch_or_a_batch_ends_one_only_in_all_runs(
    bus: EventBus, answer: StopEpoch | SkipBatch
) -> None:
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    bus.answer(answer, runs="all")
    assert list(loop.answers) == [answer]
    loop.emit("batch_finished", epoch=1, step=1)
    loop.emit("epoch_finished", epoch=1, step=1)
    assert list(loop.answers) == []
    assert list(bus.bind(sender="train").emit("run_opened")) == []


@pytest.mark.parametrize("wrong", [True, Stop, "SIGTERM", None])
def test_only_answers_may_be_given(bus: EventBus, wrong: Any) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.answer(wrong)
    assert_says(caught.value, "Stop")


def test_runs_is_current_or_all(bus: EventBus) -> None:
    with pytest.raises(MISTAKE) as caught:
        bus.answer(Stop("SIGTERM"), runs="every")  # type: ignore[arg-type]  # the mistake
    assert_says(caught.value, "every", "all", "current")


def test_a_stop_epoch_from_elsewhere_ends_with_the_epoch(bus: EventBus) -> None:
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    bus.answer(StopEpoch("enough data"))
    assert loop.emit("batch_finished", epoch=1, step=1).stop_epoch is not None
    loop.emit("epoch_finished", epoch=1, step=1)
    assert loop.answers.stop_epoch is None


def test_answers_from_many_threads_are_all_kept(bus: EventBus) -> None:
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    barrier = threading.Barrier(4)

    def answer(name: str) -> None:
        barrier.wait()
        for number in range(50):
            bus.answer(Stop(f"{name}-{number}"))

    threads = [threading.Thread(target=answer, args=(str(n),)) for n in range(3)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for step in range(1, 50):
        loop.emit("batch_finished", epoch=1, step=step)
    for thread in threads:
        thread.join()
    reasons = {answer.reason for answer in loop.answers}
    assert reasons == {f"{name}-{number}" for name in range(3) for number in range(50)}


# -- runs within runs


def test_an_inner_run_reaches_only_subscriptions_to_its_sender(bus: EventBus) -> None:
    seen: list[tuple[str, str]] = []
    bus.on("batch_finished")(lambda sender: seen.append(("any", sender)))
    bus.on("batch_finished", sender="inner")(lambda sender: seen.append(("inner", sender)))
    outer = bus.bind(sender="train")
    inner = bus.bind(sender="inner", parent=outer)
    inner.emit("batch_finished", epoch=1, step=1)
    outer.emit("batch_finished", epoch=1, step=1)
    assert seen == [("inner", "inner"), ("any", "train")]


def test_an_inner_run_reaches_plain_receivers_of_its_sender_only(bus: EventBus) -> None:
    seen: list[str] = []

    def to_any(sender: object, **fields: object) -> None:
        seen.append("any")

    def to_inner(sender: object, **fields: object) -> None:
        seen.append("inner")

    bus.signal("batch_finished").connect(to_any)
    bus.signal("batch_finished").connect(to_inner, sender="inner")
    inner = bus.bind(sender="inner", parent=bus.bind(sender="train"))
    inner.emit("batch_finished", epoch=1, step=1)
    assert seen == ["inner"]


def test_an_inner_run_and_an_outer_one_may_share_a_label(bus: EventBus) -> None:
    seen: list[str] = []
    bus.on("batch_finished")(lambda: seen.append("any"))
    bus.on("batch_finished", sender="gan")(lambda: seen.append("gan"))
    outer = bus.bind(sender="gan")
    inner = bus.bind(sender="gan", parent=bus.bind(sender="train"))
    for loop in (inner, outer, inner):
        loop.emit("batch_finished", epoch=1, step=1)
    assert seen == ["gan", "any", "gan", "gan"]


def test_a_stop_from_elsewhere_is_told_to_the_outer_run_too(bus: EventBus) -> None:
    told: list[str] = []
    bus.on("stop_requested")(lambda reason: told.append(reason))
    outer = bus.bind(sender="train")
    outer.emit("run_opened")
    inner = bus.bind(sender="inner", parent=outer)
    inner.emit("run_opened")
    bus.answer(Stop("SIGTERM"))
    assert inner.emit("batch_finished", epoch=1, step=1).stop is not None
    outer.emit("batch_finished", epoch=1, step=1)
    assert told == ["SIGTERM"]


def test_an_outer_stop_stops_the_inner_run_not_the_reverse(bus: EventBus) -> None:
    outer = bus.bind(sender="train")
    inner = bus.bind(sender="inner", parent=outer)
    bus.on("batch_finished", sender="inner")(lambda: Stop("inner"))
    assert inner.emit("batch_finished", epoch=1, step=1).stop is not None
    assert outer.answers.stop is None
    outer.emit("run_opened")
    bus.on("epoch_finished", sender="train")(lambda: Stop("outer"))
    outer.emit("epoch_finished", epoch=1, step=1)
    assert "outer" in [answer.reason for answer in inner.answers]
    innermost = bus.bind(sender="innermost", parent=inner)
    assert "outer" in [answer.reason for answer in innermost.emit("run_opened")]


def test_stop_epoch_and_skip_stay_within_their_run(bus: EventBus) -> None:
    outer = bus.bind(sender="train")
    bus.on("batch_started", sender="train")(lambda: StopEpoch("outer epoch"))
    outer.emit("batch_started", epoch=1, step=1)
    inner = bus.bind(sender="inner", parent=outer)
    assert inner.answers.stop_epoch is None


def test_closing_an_inner_run_leaves_the_outer_stop(bus: EventBus) -> None:
    outer = bus.bind(sender="train")
    outer.emit("run_opened")
    inner = bus.bind(sender="inner", parent=outer)
    inner.emit("run_opened")
    bus.on("epoch_finished", sender="train")(lambda: Stop("outer"))
    outer.emit("epoch_finished", epoch=1, step=1)
    inner.emit("run_closed", outcome="stopped")
    assert outer.answers.stop is not None


def test_the_bus_knows_its_open_runs_outermost_first(bus: EventBus) -> None:
    outer = bus.bind(sender="train")
    inner = bus.bind(sender="inner", parent=outer)
    seen = [list(bus.open_runs)]
    for loop in (outer, inner):
        loop.emit("run_opened")
        seen.append(list(bus.open_runs))
    for loop in (inner, outer):
        loop.emit("run_closed", outcome="completed")
        seen.append(list(bus.open_runs))
    assert seen == [[], [outer], [outer, inner], [outer], []]


def test_a_run_is_closed_though_a_handler_of_run_closed_fails(bus: EventBus, loop: Emitter) -> None:
    def broken() -> None:
        raise ValueError("broken")

    bus.on("run_closed")(broken)
    loop.emit("run_opened")
    bus.answer(Stop("now"))
    with pytest.raises(ValueError, match="broken"):
        loop.emit("run_closed", outcome="stopped")
    assert bus.open_runs == ()
    assert loop.answers.stop is None


def test_an_answer_that_no_run_was_there_to_hear_is_for_the_next(bus: EventBus) -> None:
    bus.answer(Stop("SIGTERM while the data were read"))
    bus.emit("text_written", tag="t", text="the bus's own emissions hear it in no run's place")
    first = bus.bind(sender="train")
    assert first.emit("run_opened").stop is not None
    first.emit("run_closed", outcome="stopped")
    assert bus.bind(sender="train").emit("run_opened").stop is None


@pytest.mark.parametrize("is_read", [False, True])
def test_a_stop_from_before_a_run_is_opened_holds_whether_it_was_read_or_not(
    bus: EventBus, is_read: bool
) -> None:
    loop = bus.bind(sender="train")
    bus.answer(Stop("SIGTERM"))
    if is_read:
        assert loop.answers.stop is not None
    assert loop.emit("run_opened").stop is not None


def test_a_run_that_is_opened_again_without_being_closed_has_none_of_the_stops_before(
    bus: EventBus, loop: Emitter
) -> None:
    loop.emit("run_opened")
    bus.answer(Stop("for the first one"))
    assert loop.emit("batch_finished", epoch=1, step=1).stop is not None
    assert loop.emit("run_opened").stop is None


@pytest.mark.parametrize("listeners", [0, 1, 20])
@pytest.mark.parametrize("emitted_before", [3, 20])
def test_a_stop_from_elsewhere_is_told_where_it_was_heard(
    bus: EventBus, listeners: int, emitted_before: int
) -> None:
    told: list[tuple[int, int]] = []
    bus.on("stop_requested")(lambda epoch, step: told.append((epoch, step)))
    for _ in range(listeners):
        bus.on("batch_finished", when=every(1000))(lambda: None)
    loop = bus.bind(sender="train")
    for step in range(1, emitted_before + 1):
        loop.emit("batch_finished", epoch=1, step=step)
    bus.answer(Stop("SIGTERM"))
    loop.emit("batch_finished", epoch=1, step=emitted_before + 1)
    assert told == [(1, emitted_before + 1)]
