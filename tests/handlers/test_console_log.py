"""ConsoleLog: what its lines say, and that they stand under each other."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from eventbus import Emitter, EventBus, Priority, SkipBatch, Stop, at, every
from eventbus.handlers import ConsoleLog
from eventbus.loops import Run

from .reporting import Clock, CountedMetrics, finish_epochs, resume, run_child, start


class Screen(io.StringIO):
    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def screen(bus: EventBus, clock: Clock) -> Screen:
    screen = Screen()
    bus.attach(ConsoleLog(when=every(2), stream=screen, monotonic=clock))
    return screen


def test_a_run_tells_its_length_and_where_it_goes_on(bus: EventBus, screen: Screen) -> None:
    start(bus)
    start(bus, epochs=3, steps=900)
    start(bus, epochs=1, steps=1)
    resume(bus, {})
    assert screen.lines == [
        "run started",
        "run started: 3 epochs, 900 steps",
        "run started: 1 epoch, 1 step",
        "run started: resumed from checkpoint",
    ]


def test_a_loop_without_epochs_is_told_by_steps(bus: EventBus, screen: Screen) -> None:
    loop = start(bus, steps=900)
    loop.emit("batch_finished", epoch=0, step=2, metrics={"loss": 0.5})
    assert screen.lines[1].startswith("step   2/900  loss 0.5")


def test_only_steps_that_are_due_get_a_line(bus: EventBus, screen: Screen) -> None:
    loop = start(bus)
    for step in range(1, 6):
        loop.emit("batch_finished", epoch=1, step=step, metrics={"loss": 1 / step})
    assert [line.split("  loss")[0] for line in screen.lines[1:]] == [
        "epoch 1  step      2",
        "epoch 1  step      4",
    ]


def test_metrics_of_steps_that_are_not_due_are_not_read(bus: EventBus, screen: Screen) -> None:
    metrics = CountedMetrics(loss=1.0)
    loop = start(bus)
    loop.emit("batch_finished", epoch=1, step=1, metrics=metrics)
    assert metrics.reads == 0
    loop.emit("batch_finished", epoch=1, step=2, metrics=metrics)
    assert metrics.reads == 1


def test_without_metrics_the_loss_is_told(bus: EventBus, screen: Screen) -> None:
    start(bus).emit("batch_finished", epoch=1, step=2, loss=torch.tensor(0.25))
    assert "loss 0.25000" in screen.lines[1]


def test_columns_stand_under_each_other(bus: EventBus, screen: Screen) -> None:
    loop = start(bus, epochs=100, steps=12_000)
    values = [123.456789, -0.5, 1e-7, float("nan"), float("-inf"), 1]
    for step, value in enumerate(values, start=1):
        metrics = {"loss": value, "accuracy": 0.5}
        loop.emit("batch_finished", epoch=step, step=2000 * step, metrics=metrics)
    places = {(line.index("step"), line.index("loss")) for line in screen.lines[1:]}
    assert len(places) == 1
    assert len({line.index("accuracy") for line in screen.lines[1:]}) <= 2  # 1e-07 is wider


def test_samples_per_second_are_those_since_the_line_before(
    bus: EventBus, screen: Screen, clock: Clock
) -> None:
    loop = start(bus)
    loop.emit("epoch_started", epoch=1, step=0)
    for step, (size, seconds) in enumerate([(30, 0.5), (10, 0.5), (16, 4), (16, 4)], start=1):
        clock.now += seconds
        loop.emit("batch_finished", epoch=1, step=step, batch_size=size)
    assert [line.split()[-2:] for line in screen.lines[1:]] == [
        ["40.0", "samples/s"],
        ["4.0", "samples/s"],
    ]


def test_validation_does_not_count_as_slow_training(
    bus: EventBus, screen: Screen, clock: Clock
) -> None:
    loop = start(bus)
    loop.emit("epoch_started", epoch=1, step=0)
    clock.now += 1
    loop.emit("batch_finished", epoch=1, step=1, batch_size=100)
    loop.emit("validation_started", name="val", round=1, epoch=1, step=1)
    clock.now += 1000
    loop.emit("validation_done", name="val", round=1, epoch=1, step=1, metrics={"val_loss": 0.5})
    for step in (2, 3, 4):
        clock.now += 1
        loop.emit("batch_finished", epoch=1, step=step, batch_size=300)
    assert [line.split()[-2:] for line in screen.lines[-2:]] == [
        ["100", "samples/s"],
        ["300", "samples/s"],
    ]


@pytest.mark.parametrize("end", ["validation_done", "validation_interrupted"])
def test_what_others_do_after_a_validation_does_not_count_as_slow_training(
    bus: EventBus, screen: Screen, clock: Clock, end: str
) -> None:
    @bus.on(end, priority=Priority.PERSIST)
    def save() -> None:
        clock.now += 1000

    loop = start(bus)
    for round in (1, 2):
        loop.emit("validation_started", name="val", round=round, epoch=1, step=round * 10)
        loop.emit(end, name="val", round=round, epoch=1, step=round * 10)
        for step in range(round * 10, round * 10 + 5):
            clock.now += 1
            loop.emit("batch_finished", epoch=1, step=step, batch_size=50)
    rates = [line.split()[-2] for line in screen.lines if "samples/s" in line]
    assert rates == ["50.0"] * 4  # none on the lines of the two steps after a validation


def test_steps_per_second_are_told_where_sizes_are_not(
    bus: EventBus, screen: Screen, clock: Clock
) -> None:
    loop = start(bus)
    loop.emit("epoch_started", epoch=1, step=0)
    for step in (1, 2):
        clock.now += 0.5
        loop.emit("batch_finished", epoch=1, step=step)
    assert screen.lines[-1].endswith("2.0 steps/s")


def test_the_time_left_follows_from_the_steps_there_are(
    bus: EventBus, screen: Screen, clock: Clock
) -> None:
    loop = start(bus, steps=100)
    loop.emit("epoch_started", epoch=1, step=0)
    for step in range(1, 11):
        clock.now += 60
        loop.emit("batch_finished", epoch=1, step=step)
    assert screen.lines[-1].endswith("eta 1:30:00")


def test_the_time_left_follows_from_the_length_of_the_loader(
    bus: EventBus, screen: Screen, clock: Clock
) -> None:
    loop = start(bus, epochs=2)
    loop.emit("epoch_started", epoch=1, step=0)
    loop.transform("loader_opened", [0] * 8, epoch=1, step=0)
    for index in range(1, 5):  # two micro-batches for each step
        clock.now += 10
        loop.transform("batch_loaded", [0], epoch=1, step=1, batch_index=index)
    loop.emit("batch_finished", epoch=1, step=2)
    assert screen.lines[-1].endswith("eta 2:00")


def test_the_time_left_follows_from_the_epochs_where_nothing_else_is_known(
    bus: EventBus, screen: Screen, clock: Clock
) -> None:
    loop = start(bus, epochs=4)
    loop.emit("epoch_started", epoch=1, step=0)
    clock.now += 30
    loop.emit("epoch_finished", epoch=1, step=10)
    assert screen.lines[-1].endswith("eta 1:30")


def test_a_resumed_run_does_not_take_earlier_epochs_for_fast_ones(
    bus: EventBus, screen: Screen, clock: Clock
) -> None:
    loop = bus.bind(sender="train")
    loop.emit("run_started", epochs=10, resumed_from="checkpoint")
    loop.emit("epoch_started", epoch=9, step=80)
    loop.emit("batch_finished", epoch=9, step=81)
    clock.now += 60
    loop.emit("epoch_finished", epoch=9, step=90)
    assert "eta" not in screen.lines[-1]
    loop.emit("epoch_started", epoch=10, step=90)
    clock.now += 30
    loop.emit("batch_finished", epoch=10, step=95)
    loop.emit("batch_finished", epoch=10, step=96)
    assert "eta" in screen.lines[-1]


def test_learning_rates_are_read_from_the_optimizer(bus: EventBus, clock: Clock) -> None:
    screen = Screen()
    bus.attach(ConsoleLog(when=every(1), stream=screen, monotonic=clock))
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}, {"lr": 0.1}, {"lr": torch.tensor(0.02)}])
    loop = bus.bind(sender="train", optimizer=optimizer)
    loop.emit("batch_finished", epoch=1, step=1)
    assert screen.lines[-1].endswith("lr 0.1 0.02")


def test_learning_rates_that_were_told_serve_where_there_is_no_optimizer(
    bus: EventBus, screen: Screen
) -> None:
    loop = start(bus)
    loop.emit("learning_rate_changed", step=1, learning_rates={"0": 3e-4})
    loop.emit("epoch_finished", epoch=1, step=10)
    assert screen.lines[-1].endswith("lr 0.0003")


def test_learning_rates_that_were_told_of_two_optimizers_are_both_shown(
    bus: EventBus, screen: Screen
) -> None:
    loop = start(bus)
    for rates in ({"g.0": 0.1}, {"d.0": 0.4}, {"g.0": 0.05}):
        loop.emit("learning_rate_changed", step=1, learning_rates=rates)
    loop.emit("epoch_finished", epoch=1, step=10)
    assert screen.lines[-1].endswith("lr 0.05 0.4")


def test_what_befalls_a_run_is_told(bus: EventBus, screen: Screen, clock: Clock) -> None:
    loop = start(bus)
    counts = {"epoch": 1, "step": 10}
    validation = {"name": "val", "round": 1, **counts}
    loop.emit("validation_done", **validation, metrics={"val_loss": 0.5})
    loop.emit("validation_interrupted", **validation, reason="SIGTERM")
    loop.emit("epoch_finished", **counts, metrics={"loss": 0.25}, complete=False)
    loop.emit("epoch_interrupted", **counts, reason="SIGTERM")
    loop.emit("checkpoint_saved", path="runs/one", **counts)
    loop.emit("checkpoint_saved", path=str(Path("runs/two").absolute()), **counts)
    loop.emit("stop_requested", reason="enough", handler="EarlyStopping")
    loop.emit("stop_requested", reason="SIGTERM")
    clock.now += 61
    loop.emit("run_finished", reason="enough")
    loop.emit("run_failed", exception=ValueError("two\nlines"))
    assert screen.lines[1:] == [
        "epoch 1  step     10  val  val_loss 0.50000",
        "epoch 1  step     10  val  interrupted: SIGTERM",
        "epoch 1  step     10  cut short  loss 0.25000",
        "epoch 1  step     10  interrupted: SIGTERM",
        "checkpoint saved: runs/one",
        "checkpoint saved: runs/two",
        "stop requested by EarlyStopping: enough",
        "stop requested: SIGTERM",
        "run finished after 1:01: enough",
        "run failed after 1:01: ValueError: two lines",
    ]


def skip(loop: Emitter, *reasons: str | None) -> None:
    for reason in reasons:
        loop.emit("batch_skipped", epoch=1, step=4, reason=reason)


def test_batches_that_were_skipped_are_told_when_their_epoch_ends(
    bus: EventBus, screen: Screen
) -> None:
    loop = start(bus)
    skip(loop, "loss is nan", "loss is inf", None)
    loop.emit("epoch_finished", epoch=1, step=10)
    skip(loop, "a spike")
    loop.emit("batch_finished", epoch=2, step=19)
    loop.emit("epoch_interrupted", epoch=2, step=20)
    loop.emit("epoch_finished", epoch=3, step=30)
    assert screen.lines[1:] == [
        "epoch 1  step     10  done",
        "epoch 1  step     10  3 batches skipped, the first: loss is nan",
        "epoch 2  step     20  interrupted",
        "epoch 2  step     20  1 batch skipped: a spike",
        "epoch 3  step     30  done",
    ]


def test_batches_that_a_loop_without_epochs_skipped_are_told_at_its_end(
    bus: EventBus, screen: Screen
) -> None:
    loop = start(bus)
    skip(loop, None, None)
    loop.emit("batch_finished", epoch=0, step=9)
    loop.emit("run_finished", reason="completed", epoch=0, step=10)
    skip(loop, None)
    start(bus).emit("run_failed", exception=ValueError(), epoch=0, step=10)
    assert screen.lines[1] == "step     10  2 batches skipped"
    assert not any("1 batch" in line for line in screen.lines)  # those of the run before


class MuteError(Exception):
    """One that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no text")


def test_a_failure_that_cannot_say_what_it_is_is_told(bus: EventBus, screen: Screen) -> None:
    start(bus).emit("run_failed", exception=MuteError())
    assert screen.lines[-1] == "run failed after 0:00: MuteError: <its __str__ raises>"


def test_a_run_that_fails_as_it_ends_is_told_to_have_failed(
    bus: EventBus, screen: Screen, clock: Clock
) -> None:
    loop = start(bus)
    clock.now += 64
    loop.emit("run_finished", reason="completed")
    loop.emit("run_closed", outcome="failed")
    assert screen.lines[1:] == [
        "run finished after 1:04: completed",
        "run closed as failed after 1:04",
    ]


def test_a_failure_is_told_once_in_each_run(bus: EventBus, screen: Screen) -> None:
    for _run in range(2):
        loop = start(bus)
        loop.emit("run_failed", exception=ValueError("no"))
        loop.emit("run_closed", outcome="failed")
    start(bus).emit("run_closed", outcome="completed")
    told = "run started", "run failed after 0:00: ValueError: no"
    assert screen.lines == [*told, *told, "run started"]


def test_standard_output_is_looked_up_at_each_line(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.attach(ConsoleLog())
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    finish_epochs(start(bus), 1, 1)
    assert len(screen.lines) == 2


def test_no_standard_output_at_all_is_no_failure(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.attach(ConsoleLog())
    monkeypatch.setattr(sys, "stdout", None)
    finish_epochs(start(bus), 1, 1)


def test_a_stream_that_knows_only_ascii_gets_escapes(bus: EventBus) -> None:
    bytes_written = io.BytesIO()
    stream = io.TextIOWrapper(bytes_written, encoding="ascii")
    bus.attach(ConsoleLog(stream=stream))
    finish_epochs(start(bus), 1, 1, präzision=0.5)
    assert b"pr\\xe4zision 0.50000" in bytes_written.getvalue()


def test_other_ranks_say_nothing(
    bus: EventBus, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    loop = start(bus)
    loop.emit("batch_finished", epoch=1, step=2)
    finish_epochs(loop, 1, 1)
    assert screen.lines == []


PRINTS_TO_A_CLOSED_PIPE = """
import os
from eventbus import EventBus
from eventbus.handlers import ConsoleLog
reader, writer = os.pipe()
os.close(reader)
os.dup2(writer, 1)
bus = EventBus()
bus.attach(ConsoleLog())
for epoch in range(1, 10):
    bus.emit("epoch_finished", epoch=epoch, step=epoch)
os.write(2, b"went on")
os._exit(0)
"""


def test_training_goes_on_when_nobody_reads_the_lines_any_more() -> None:
    child = run_child(PRINTS_TO_A_CLOSED_PIPE)
    assert child.returncode == 0
    first, second = child.stderr.splitlines()
    assert first.startswith("ConsoleLog prints no more, nobody reads it: ")
    assert second == "went on"


def test_a_stream_that_was_closed_is_told_once_and_another_is_printed_to(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(ConsoleLog())
    closed, screen = Screen(), Screen()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    loop = start(bus)
    finish_epochs(loop, 1, 3)
    assert len(caplog.records) == 1
    monkeypatch.setattr(sys, "stdout", screen)
    finish_epochs(loop, 4, 4)
    assert len(screen.lines) == 1


@pytest.mark.parametrize("how", ["break", "stop", "fails"])
def test_a_batch_that_was_left_is_not_told_as_skipped(how: str) -> None:
    bus, lines = EventBus(), io.StringIO()
    bus.attach(ConsoleLog(stream=lines))
    if how == "stop":
        bus.on("batch_started", when=at(2))(lambda: Stop("enough"))
    with suppress(ValueError), Run(bus) as run:
        for _ in run.epochs(1):
            for batch in run.batches(range(4)):
                if batch == 1 and how == "break":
                    break
                if batch == 1 and how == "fails":
                    raise ValueError("boom")
                run.report(loss=1.0)
    assert "skipped" not in lines.getvalue()


def test_batches_that_the_loop_or_a_handler_skips_are_told_also_where_it_is_left() -> None:
    bus, lines = EventBus(), io.StringIO()
    bus.attach(ConsoleLog(stream=lines))
    bus.on("batch_started", when=at(2))(lambda: SkipBatch("not this one"))
    with Run(bus) as run:
        for _ in run.epochs(1):
            for batch in run.batches(range(4)):
                if batch == 0:
                    run.skip("no labels")
                    continue
                if batch == 3:
                    break
                run.report(loss=1.0)
    assert "3 batches skipped, the first: no labels" in lines.getvalue()
