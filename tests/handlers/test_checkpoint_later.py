"""A save that is put off until the run has come to a place that it can go on from exactly."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import Event, EventBus, State
from eventbus.handlers import Checkpoint
from eventbus.handlers._checkpoint_files import Folder
from eventbus.handlers._files import Files
from eventbus.loops import Run


def steps_in(folder: Path) -> list[int | None]:
    return [one.manifest.step for one in Folder(folder, Files()).saved()]


def where_saved(bus: EventBus) -> list[str]:
    """Note on which signal each checkpoint is saved, and of which step."""
    found: list[str] = []
    last: list[Event] = []
    seen = ("looked_at", "batch_finished", "epoch_finished", "validation_done")
    bus.on(*seen, priority=10_000)(lambda event: last.append(event))
    bus.on("checkpoint_saved")(lambda step: found.append(f"{last[-1].name} {step}"))
    return found


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_one_in_the_middle_of_a_step_is_made_at_its_end(
    asynchronous: bool, bus: EventBus, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"best": None, "at_end": False, "asynchronous": asynchronous}
    bus.attach(Checkpoint(tmp_path, on="looked_at", **options))
    with Run(bus) as run:
        for step in run.steps(4):
            if step == 2:
                run.emit("looked_at")
            run.report(loss=1.0)
    assert steps_in(tmp_path) == [2]
    (saved,) = Folder(tmp_path, Files()).saved()
    assert Checkpoint.load(saved.path)["loop"]["step"] == 2


def test_one_is_saved_on_the_first_signal_that_will_do(bus: EventBus, tmp_path: Path) -> None:
    found = where_saved(bus)
    bus.attach(Checkpoint(tmp_path, on="batch_finished", best=None, at_end=False))
    with Run(bus) as run:
        for step in run.steps(3):
            run.report(loss=1.0)
            if step == 2:
                for _ in run.validate([1]):
                    run.report(loss=1.0)
    assert found == ["batch_finished 1", "validation_done 2", "batch_finished 3"]


def test_the_best_has_the_weights_and_the_metrics_that_were_validated(
    bus: EventBus, tmp_path: Path
) -> None:
    weight = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.1)
    checkpoint = Checkpoint(tmp_path, on="validation_done", best="val_loss", at_end=False)
    bus.attach(checkpoint)
    validated: dict[int, float] = {}
    with Run(bus, model=weight, optimizer=optimizer) as run:
        for step in run.steps(4):
            weight(torch.ones(1)).sum().backward()
            optimizer.step()
            if step in (2, 3):
                validated[step] = weight.weight.item()
                for _ in run.validate([1]):
                    run.report(loss=float(step))
            run.report(loss=0.5)
    assert checkpoint.best_path is not None
    best = Checkpoint.load(checkpoint.best_path)
    assert best["model"]["weight"].item() == validated[2]
    saved = Folder(tmp_path, Files()).saved()
    assert [(one.manifest.step, one.manifest.metrics["val_loss"]) for one in saved] == [
        (2, 2.0),
        (3, 3.0),
    ]


def test_none_is_put_off_for_longer_than_a_step(bus: EventBus, tmp_path: Path) -> None:
    bus.on("state_requested")(lambda: State("never", 1, exact=False))
    bus.attach(Checkpoint(tmp_path, on="looked_at", best=None, at_end=False))
    with Run(bus) as run:
        for step in run.steps(4):
            if step == 2:
                run.emit("looked_at")
            run.report(loss=1.0)
    assert steps_in(tmp_path) == [3]


@pytest.mark.parametrize("ends", [True, False])
def test_the_last_one_is_made_where_it_is(ends: bool, bus: EventBus, tmp_path: Path) -> None:
    bus.on("state_requested")(lambda: State("never", 1, exact=False))
    bus.attach(Checkpoint(tmp_path, on="run_finished" if ends else "looked_at", best=None))
    with Run(bus) as run:
        for _ in run.steps(1):
            run.emit("looked_at")
            run.report(loss=1.0)
    assert steps_in(tmp_path) == [1]


def test_one_that_is_made_at_once_is_not_made_again(bus: EventBus, tmp_path: Path) -> None:
    on = ("looked_at", "batch_finished")
    bus.attach(Checkpoint(tmp_path, on=on, best=None, at_end=False, keep=None))
    before = bus.subscriptions
    with Run(bus) as run:
        for _ in run.steps(3):
            run.emit("looked_at")
            run.report(loss=1.0)
    assert steps_in(tmp_path) == [1, 2, 3]
    assert bus.subscriptions == before


def test_a_checkpoint_that_is_detached_while_it_waits_saves_nothing(
    bus: EventBus, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path, on="looked_at", best=None)
    handle = bus.attach(checkpoint)
    with Run(bus) as run:
        for _ in run.steps(2):
            run.emit("looked_at")
            handle.detach()
            run.report(loss=1.0)
    assert steps_in(tmp_path) == []
    assert [one.name for one in bus.subscriptions] == []


def test_the_step_around_an_inner_run_does_not_keep_it_from_saving(
    bus: EventBus, tmp_path: Path
) -> None:
    found = where_saved(bus)
    options: dict[str, Any] = {"best": None, "at_end": False}
    bus.attach(Checkpoint(tmp_path, on="batch_finished", **options), sender="inner")
    with Run(bus) as outer:
        for _ in outer.steps(1):
            with Run(bus, name="inner") as inner:
                for _ in inner.steps(2):
                    inner.report(loss=1.0)
            outer.report(loss=1.0)
    assert steps_in(tmp_path) == [1, 2]
    assert found == []  # told on the bus, where nobody is asked for the inner one


def test_a_second_validation_that_came_in_the_body_before_is_told_of(
    bus: EventBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was not done yet when the checkpoint was made, and a resumed run does not come to it."""

    class Killed(BaseException):
        pass

    def train(killed: bool) -> None:
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, on="validation_done", resume="auto", best=None))
        with Run(bus) as run:
            for step in run.steps(5):
                run.report(loss=1.0)
                for name in ("val", "test") if step % 2 == 0 else ():
                    for _ in run.validate([1], name):
                        run.report(loss=1.0)
                    if killed and step == 4:
                        raise Killed

    with pytest.raises(Killed):
        train(killed=True)
    with caplog.at_level(logging.WARNING, logger="eventbus.loops"):
        train(killed=False)
    (told,) = [text for text in caplog.messages if "leaves it out" in text]
    assert "step 4, before validation 'test' in it was done" in told
