"""Operations from inside handlers: emit, subscribe, detach."""

from __future__ import annotations

from typing import Any

import pytest

from eventbus import Emitter, EventBus, Stop, handles

from .recorders import Recorder, StepCollector


def test_a_handler_may_emit(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()

    @bus.on("batch_finished")
    def measure(bus: EventBus) -> None:
        recorder.calls.append("measure")
        bus.emit("metrics_measured", metrics={"x": 1.0})
        recorder.calls.append("measured")

    bus.on("metrics_measured")(recorder.handler("log"))
    bus.on("batch_finished")(recorder.handler("after"))
    loop.emit("batch_finished", epoch=1, step=1)
    assert recorder.calls == ["measure", "log", "measured", "after"]


def test_epoch_and_step_are_filled_in(bus: EventBus, loop: Emitter) -> None:
    seen: list[tuple[int, int]] = []
    bus.on("metrics_measured")(lambda epoch, step: seen.append((epoch, step)))
    bus.on("batch_finished")(lambda bus: bus.emit("metrics_measured", metrics={}))
    loop.emit("batch_finished", epoch=3, step=14)
    assert seen == [(3, 14)]


def test_epoch_and_step_that_are_given_stay(bus: EventBus, loop: Emitter) -> None:
    seen: list[tuple[int, int]] = []
    bus.on("metrics_measured")(lambda epoch, step: seen.append((epoch, step)))
    bus.on("batch_finished")(lambda bus: bus.emit("metrics_measured", metrics={}, step=7))
    loop.emit("batch_finished", epoch=3, step=14)
    assert seen == [(3, 7)]


def test_epoch_and_step_pass_through_an_emission_without_them(bus: EventBus, loop: Emitter) -> None:
    seen: list[int] = []
    bus.on("text_written")(lambda step: seen.append(step))
    bus.on("my_own")(lambda bus: bus.emit("text_written", tag="t", text="x"))
    bus.on("batch_finished")(lambda bus: bus.emit("my_own"))
    loop.emit("batch_finished", epoch=1, step=8)
    assert seen == [8]


def test_epoch_and_step_pass_through_a_signal_that_carries_none(
    bus: EventBus, loop: Emitter
) -> None:
    @bus.declare
    def sample_drawn(*, text: str) -> None:
        """A sample was drawn."""

    seen: list[tuple[int, int]] = []
    bus.on("text_written")(lambda epoch, step: seen.append((epoch, step)))
    bus.on("sample_drawn")(lambda bus, text: bus.emit("text_written", tag="t", text=text))
    bus.on("batch_finished")(lambda bus: bus.emit("sample_drawn", text="to be"))
    loop.emit("batch_finished", epoch=1, step=8)
    assert seen == [(1, 8)]


def test_another_run_does_not_get_the_step_of_this_one(bus: EventBus) -> None:
    seen: list[dict[str, Any]] = []
    other = bus.bind(sender="other")
    bus.on("metrics_measured")(lambda event: seen.append(dict(event.fields)))
    bus.on("batch_finished")(lambda: other.emit("metrics_measured", metrics={}))
    bus.bind(sender="train").emit("batch_finished", epoch=3, step=14)
    assert seen == [{"metrics": {}}]


def test_a_signal_without_a_step_is_not_given_one(bus: EventBus, loop: Emitter) -> None:
    seen: list[dict[str, Any]] = []
    bus.on("run_finished")(lambda event: seen.append(dict(event.fields)))
    bus.on("batch_finished")(lambda bus: bus.emit("run_started"))
    bus.on("run_started")(lambda event: seen.append(dict(event.fields)))
    loop.emit("batch_finished", epoch=1, step=8)
    assert seen == [{}]


def test_nothing_is_filled_in_outside_an_emission(bus: EventBus, loop: Emitter) -> None:
    seen: list[dict[str, Any]] = []
    bus.on("metrics_measured")(lambda event: seen.append(dict(event.fields)))
    loop.emit("batch_finished", epoch=3, step=14)
    loop.emit("metrics_measured", metrics={"x": 1.0})
    assert [sorted(fields) for fields in seen] == [["metrics"]]


def test_a_nested_emission_inherits_sender_and_context(bus: EventBus) -> None:
    seen: list[tuple[object, object]] = []
    bus.on("metrics_measured")(lambda sender, model: seen.append((sender, model)))
    bus.on("batch_finished")(lambda bus: bus.emit("metrics_measured", metrics={}))
    for sender in ("generator", "discriminator"):
        bus.bind(sender=sender, model=sender[0]).emit("batch_finished", epoch=1, step=1)
    assert seen == [("generator", "g"), ("discriminator", "d")]


def test_a_nested_emission_reaches_who_wants_that_sender_only(bus: EventBus) -> None:
    recorder = Recorder()
    bus.on("metrics_measured", sender="a")(recorder.handler("a"))
    bus.on("metrics_measured", sender="b")(recorder.handler("b"))
    bus.on("batch_finished")(lambda bus: bus.emit("metrics_measured", metrics={}))
    bus.bind(sender="b").emit("batch_finished", epoch=1, step=1)
    assert recorder.calls == ["b"]


def test_a_nested_emission_of_an_inner_run_stays_inner(bus: EventBus) -> None:
    recorder = Recorder()
    bus.on("metrics_measured")(recorder.handler("any"))
    bus.on("metrics_measured", sender="inner")(recorder.handler("inner"))
    bus.on("batch_finished", sender="inner")(lambda bus: bus.emit("metrics_measured", metrics={}))
    outer = bus.bind(sender="train")
    bus.bind(sender="inner", parent=outer).emit("batch_finished", epoch=1, step=1)
    assert recorder.calls == ["inner"]


def test_a_stop_given_in_a_nested_emission_is_pending_in_the_run(
    bus: EventBus, loop: Emitter
) -> None:
    bus.on("metrics_measured")(lambda: Stop("exploded"))
    bus.on("batch_finished")(lambda bus: bus.emit("metrics_measured", metrics={}))
    answers = loop.emit("batch_finished", epoch=1, step=1)
    assert answers.stop is not None
    assert loop.answers.stop is not None


def test_the_answers_of_a_nested_emission_reach_who_emits(bus: EventBus, loop: Emitter) -> None:
    seen: list[str] = []

    @bus.on("batch_finished")
    def ask(bus: EventBus) -> None:
        stop = bus.emit("metrics_measured", metrics={}).stop
        seen.append(stop.reason if stop else "none")

    bus.on("metrics_measured")(lambda: Stop("exploded"))
    loop.emit("batch_finished", epoch=1, step=1)
    assert seen == ["exploded"]


def test_two_loops_may_emit_within_each_other(bus: EventBus) -> None:
    seen: list[tuple[str, int]] = []
    outer, other = bus.bind(sender="a"), bus.bind(sender="b")
    bus.on("epoch_finished", sender="a")(lambda: other.emit("batch_finished", epoch=9, step=99))
    bus.on("batch_finished")(lambda sender, step: seen.append((sender, step)))
    outer.emit("epoch_finished", epoch=1, step=1)
    outer.emit("batch_finished", epoch=1, step=2)
    assert seen == [("b", 99), ("a", 2)]


# -- subscribing and detaching count from the next emission


@pytest.mark.parametrize("priority", [1, 0, -1])
def test_subscribing_during_an_emission_counts_from_the_next(
    bus: EventBus, loop: Emitter, priority: int
) -> None:
    late = StepCollector()

    @bus.once("batch_finished")
    def subscribe(bus: EventBus) -> None:
        bus.on("batch_finished", priority=priority)(late)

    loop.emit("batch_finished", epoch=1, step=1)
    assert late.steps == []
    loop.emit("batch_finished", epoch=1, step=2)
    assert late.steps == [2]


def test_detaching_another_during_an_emission_counts_from_the_next(
    bus: EventBus, loop: Emitter
) -> None:
    other = StepCollector()
    bus.once("batch_finished", priority=1)(lambda bus: bus.detach(other))
    bus.on("batch_finished")(other)
    loop.emit("batch_finished", epoch=1, step=1)
    loop.emit("batch_finished", epoch=1, step=2)
    assert other.steps == [1]


def test_a_handler_may_detach_itself(bus: EventBus, loop: Emitter) -> None:
    steps: list[int] = []

    def myself(bus: EventBus, step: int) -> None:
        steps.append(step)
        bus.detach(myself)

    bus.on("batch_finished")(myself)
    for step in (1, 2):
        loop.emit("batch_finished", epoch=1, step=step)
    assert steps == [1]


def test_a_nested_emission_is_the_next_one(bus: EventBus, loop: Emitter) -> None:
    late = StepCollector()

    @bus.once("batch_finished")
    def subscribe_and_emit(bus: EventBus) -> None:
        bus.on("batch_finished")(late)
        bus.emit("batch_finished", epoch=1, step=50)

    loop.emit("batch_finished", epoch=1, step=1)
    assert late.steps == [50]


def test_attaching_during_an_emission_works(bus: EventBus, loop: Emitter) -> None:
    steps: list[int] = []

    class Late:
        @handles("batch_finished")
        def note(self, step: int) -> None:
            steps.append(step)

    @bus.once("batch_finished")
    def attach(bus: EventBus) -> None:
        bus.attach(Late())

    for step in (1, 2):
        loop.emit("batch_finished", epoch=1, step=step)
    assert steps == [2]


def test_muting_during_an_emission_counts_from_the_next(bus: EventBus, loop: Emitter) -> None:
    recorder = Recorder()

    @bus.on("batch_finished", priority=1)
    def mute_and_emit(bus: EventBus, step: int) -> None:
        if step == 1:
            with bus.signal("batch_finished").muted():
                bus.emit("batch_finished", epoch=1, step=2)

    bus.on("batch_finished")(recorder.handler("heard"))
    loop.emit("batch_finished", epoch=1, step=1)
    assert recorder.calls == ["heard"]
