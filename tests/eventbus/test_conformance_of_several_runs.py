"""Runs on one bus: one after another, one inside another, and mixed up."""

from __future__ import annotations

import pytest

from eventbus import EventBus
from eventbus.testing import Report, play, scripted_run, watch_loop

from .transcribing import full_run


def interleaved(bus: EventBus, **inner: str) -> None:
    """Play a run, and another one in the middle of it."""
    outer = bus.bind(sender="train")
    script = list(scripted_run(2, 2))
    for name, fields in script[:5]:
        outer.emit(name, **fields)
    parent = outer if inner else None
    nested = bus.bind(parent=parent, **{"sender": "train", **inner})
    for name, fields in scripted_run(1, 1):
        nested.emit(name, **fields)
    for name, fields in script[5:]:
        outer.emit(name, **fields)


def messages(report: Report) -> list[str]:
    return [f"{violation.signal}: {violation.message}" for violation in report.violations]


def test_runs_one_after_another_are_each_checked() -> None:
    bus = EventBus()
    with watch_loop(bus) as report:
        play(bus, full_run())
        play(bus, full_run()[1:])
    assert report.runs == 2
    assert messages(report) == [
        "run_started: came before run_opened: that is the first signal of a run"
    ]


def test_a_run_may_have_the_id_of_one_that_is_over() -> None:
    bus = EventBus()
    with watch_loop(bus) as report:
        for _ in range(2):
            play(bus, full_run(), run_id="again")
    assert (messages(report), report.runs) == ([], 2)


def test_a_run_inside_another_is_checked_on_its_own() -> None:
    bus = EventBus()
    with watch_loop(bus) as report:
        interleaved(bus, sender="inner")
    assert (messages(report), report.runs) == ([], 2)


def test_a_second_run_while_one_is_open_is_told() -> None:
    bus = EventBus()
    with watch_loop(bus) as report:
        interleaved(bus)
    (message,) = messages(report)
    assert message == (
        "run_opened: opens a run while that of 'train' is open: close that one first, or bind "
        "with parent= for a run inside it"
    )


def test_an_emitter_for_each_epoch_is_told() -> None:
    bus = EventBus()
    script = list(scripted_run(2, 1))
    with watch_loop(bus) as report:
        play(bus, script[:6])
        play(bus, script[6:])
    assert messages(report)[0] == (
        "epoch_finished: came before run_opened: it has another run_id than the run that is open; "
        "bind one emitter for a run"
    )
    assert messages(report)[-1] == (
        "batch_finished: nothing of the run came after it: run_closed is always the last"
    )


def test_a_loop_that_emits_from_the_bus_itself_is_told() -> None:
    bus = EventBus()
    with watch_loop(bus) as report:
        for name, fields in scripted_run(1, 1):
            bus.emit(name, **fields)
    assert "the run has no sender: bus.bind(sender='train', ...)" in messages(report)[0]


def test_a_run_that_changes_its_sender_is_told() -> None:
    bus = EventBus()
    loop = bus.bind(sender="train")
    script = list(scripted_run(1, 1))
    with watch_loop(bus) as report:
        for at, (name, fields) in enumerate(script):
            emitter = loop.labelled("other") if at == 3 else loop
            emitter.emit(name, **fields)
    assert messages(report) == [
        "batch_started: has the sender 'other'; the run was opened by 'train'"
    ]


def test_a_run_that_was_open_before_the_watch_is_left_alone() -> None:
    bus = EventBus()
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    with watch_loop(bus) as report:
        loop.emit("epoch_started", epoch=7, step=0)
    assert (messages(report), report.runs, report.emissions) == ([], 0, 1)


def test_what_handlers_emit_at_any_time_breaks_no_rule() -> None:
    bus = EventBus()

    @bus.on("batch_started", "epoch_finished", "run_closed")
    def measure(bus: EventBus) -> None:
        bus.emit("metrics_measured", metrics={"norm": 0.5})
        bus.emit("text_written", tag="a", text="b")
        bus.emit("a_signal_of_ones_own", whatever=1)

    with watch_loop(bus) as report:
        play(bus, full_run())
    assert messages(report) == []


def test_a_field_that_is_not_declared_is_told_where_the_bus_lets_it_pass() -> None:
    bus = EventBus()
    with watch_loop(bus) as report:
        bus.signal("epoch_started").send("train", epoch=1, step=0, speed=3)
    assert "epoch_started: carries 'speed', which it does not declare" in messages(report)


def test_what_is_raised_under_watch_passes_with_the_report_as_a_note() -> None:
    bus = EventBus()
    bus.on("batch_loaded")(lambda batch: 1 // batch)
    with pytest.raises(ZeroDivisionError) as raised, watch_loop(bus):
        play(bus, full_run())
    assert "nothing of the run came after it" in raised.value.__notes__[-1]
    assert bus.signal("epoch_started").receivers == {}


def test_alike_violations_are_shown_once() -> None:
    bus = EventBus()
    script = [(name, fields) for name, fields in full_run() if name != "backward_finished"]
    wrong = [
        (name, {**fields, "loss": None} if name == "batch_finished" else fields)
        for name, fields in script
    ]
    with watch_loop(bus) as report:
        play(bus, wrong)
    assert len(report.violations) == 6
    assert str(report).splitlines()[:3] == [
        "6 violations in 46 emissions of 1 run:",
        "  emission 11, batch_finished: metrics has a loss, and the field 'loss' was not sent",
        "    … and 5 more like it",
    ]


def test_validations_between_epochs_are_noted() -> None:
    script = full_run()
    late = [each for each in script if each[0].startswith("validation") and each[1]["round"] == 1]
    rest = [each for each in script if each not in late]
    at = [name for name, _ in rest].index("epoch_finished") + 1
    bus = EventBus()
    with watch_loop(bus) as report:
        play(bus, [*rest[:at], *late, *rest[at:]])
    assert (
        "validation 'val' came between epochs: no epoch_finished holds its results" in report.notes
    )
