"""`eventbus.testing`: what users test their own handlers with."""

from __future__ import annotations

import pytest

from eventbus import EventBus, SkipBatch, Stop, StopEpoch, at_most_every
from eventbus.testing import FakeClock, capture, play, scripted_run, watch_loop

from .recorders import Recorder, StepCollector


def test_capture_records_signals_senders_and_fields(bus: EventBus) -> None:
    with capture(bus) as recording:
        bus.bind(sender="a").emit("epoch_started", epoch=1, step=0)
        bus.bind(sender="b").emit("batch_finished", epoch=1, step=1, loss=0.5)
    assert recording.names == ["epoch_started", "batch_finished"]
    assert [emission.sender for emission in recording.emissions] == ["a", "b"]
    assert recording.of("batch_finished")[0]["loss"] == 0.5


def test_capture_ends_with_its_block(bus: EventBus) -> None:
    with pytest.raises(ValueError, match="mine"), capture(bus) as recording:
        raise ValueError("mine")
    bus.emit("run_started")
    assert recording.names == []
    assert not bus.signal("run_started").receivers


def test_capture_may_nest(bus: EventBus) -> None:
    with capture(bus) as outer:
        bus.emit("run_opened")
        with capture(bus) as inner:
            bus.emit("run_started")
    assert (outer.names, inner.names) == (["run_opened", "run_started"], ["run_started"])


def test_capture_of_some_signals_leaves_the_rest(bus: EventBus) -> None:
    with capture(bus, "epoch_*") as recording:
        bus.emit("run_started")
        bus.emit("epoch_started", epoch=1, step=0)
    assert recording.names == ["epoch_started"]


def test_capture_records_a_value_as_it_was_before_handlers(bus: EventBus) -> None:
    bus.on("batch_loaded")(lambda batch: batch + 1)
    with capture(bus) as recording:
        assert bus.transform("batch_loaded", 1, epoch=1, step=1) == 2
    assert recording.of("batch_loaded")[0]["batch"] == 1


def test_capture_records_answers_of_handlers_that_fail_too(bus: EventBus) -> None:
    recorder = Recorder()
    bus.on("batch_finished", priority=1)(recorder.handler("a", Stop("enough")))
    bus.on("batch_finished")(recorder.handler("b", [StopEpoch("epoch"), SkipBatch("batch")]))
    with capture(bus) as recording:
        bus.bind(sender="train").emit("batch_finished", epoch=1, step=1)
    assert [answer.reason for answer in recording.answers] == ["enough", "epoch", "batch"]


def test_capture_changes_neither_answers_nor_values(bus: EventBus) -> None:
    bus.on("batch_finished")(lambda: Stop("enough"))
    loop = bus.bind(sender="train")
    with capture(bus):
        assert loop.emit("batch_finished", epoch=1, step=1).stop is not None
        assert loop.transform("batch_loaded", "data", epoch=1, step=1) == "data"


def test_play_emits_a_script_and_returns_the_answers(bus: EventBus) -> None:
    steps = StepCollector()
    bus.on("batch_finished", sender="train")(steps)
    bus.on("batch_finished")(lambda step: Stop("enough") if step == 2 else None)
    script = [("batch_finished", {"epoch": 1, "step": step}) for step in (1, 2, 3)]
    answers = play(bus, script)
    assert steps.steps == [1, 2, 3]
    assert [each.stop is not None for each in answers] == [False, True, True]


def test_play_gives_context_and_transforms(bus: EventBus) -> None:
    seen: list[object] = []
    bus.on("batch_loaded")(lambda batch, model: seen.append((batch, model)))
    play(bus, [("batch_loaded", {"batch": "data", "epoch": 1, "step": 1})], model="m")
    assert seen == [("data", "m")]


def test_a_scripted_run_is_a_run_from_opened_to_closed(bus: EventBus) -> None:
    with capture(bus) as recording:
        script = scripted_run(2, 3, losses=[6, 5, 4, 3, 2, 1], validation=[{"val_loss": 0.5}])
        play(bus, script)
    assert recording.names[0] == "run_opened"
    assert recording.names[-1] == "run_closed"
    assert [e["step"] for e in recording.of("batch_finished")] == [1, 2, 3, 4, 5, 6]
    first, second = recording.of("epoch_finished")
    assert dict(first["metrics"]) == {"loss": 5.0, "val_loss": 0.5}
    assert dict(second["metrics"]) == {"loss": 2.0}


def test_a_scripted_run_validates_one_batch(bus: EventBus) -> None:
    with capture(bus, "validation_*") as recording:
        play(bus, scripted_run(validation=[{"val_loss": 0.5}]))
    assert recording.names == [
        "validation_started",
        "validation_batch_finished",
        "validation_done",
    ]
    assert recording.emissions[1]["metrics"] == {"val_loss": 0.5}


def test_a_scripted_run_offers_the_batches_that_it_was_given(bus: EventBus) -> None:
    altered: list[int] = []
    bus.on("batch_loaded")(lambda batch, step, batch_index: altered.append(batch))
    with capture(bus) as recording, watch_loop(bus) as report:
        play(bus, scripted_run(2, 2, batches=[10, 20, 30]), optimizer="sgd", model="net")
    report.raise_if_any()
    assert altered == [10, 20, 30, 10]
    assert [one["loader"] for one in recording.of("loader_opened")] == [[10, 20], [30, 10]]
    loaded = recording.of("batch_loaded")
    assert [(one["step"], one["batch_index"]) for one in loaded] == [(1, 1), (2, 2), (3, 1), (4, 2)]
    assert recording.names[2:6] == [
        "epoch_started",
        "loader_opened",
        "batch_loaded",
        "batch_started",
    ]


def test_a_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock()
    bus, steps = EventBus(monotonic=clock), StepCollector()
    bus.on("batch_finished", when=at_most_every(60))(steps)
    loop = bus.bind(sender="train")
    for step in (1, 2, 3):
        loop.emit("batch_finished", epoch=1, step=step)
        clock.advance(30)
    assert steps.steps == [1, 3]
