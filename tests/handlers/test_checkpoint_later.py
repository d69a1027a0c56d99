"""A save that is put off until the run has come to a place that it can go on from exactly."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import Event, EventBus, State, Stop
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


class Stepper:
    """An optimizer, and a step of it."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)

    def step(self) -> None:
        self.weight.grad = torch.ones(1)
        self.optimizer.step()


@pytest.fixture
def stepper() -> Stepper:
    return Stepper()


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_one_in_the_middle_of_a_step_is_made_at_its_end(
    asynchronous: bool, bus: EventBus, stepper: Stepper, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"best": None, "at_end": False, "asynchronous": asynchronous}
    bus.attach(Checkpoint(tmp_path, on="looked_at", **options))
    with Run(bus, optimizer=stepper.optimizer) as run:
        for step in run.steps(4):
            if step == 2:
                stepper.step()
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


def test_what_may_be_the_best_is_saved_as_it_was_validated_and_again_at_the_end_of_the_step(
    bus: EventBus, tmp_path: Path
) -> None:
    """Two optimizers: the second one steps after the validation."""
    steppers = {"one": Stepper(), "two": Stepper()}
    model = torch.nn.ParameterDict({name: one.weight for name, one in steppers.items()})
    optimizers = {name: one.optimizer for name, one in steppers.items()}
    checkpoint = Checkpoint(tmp_path, on="validation_done", best="val_loss", keep=None)
    bus.attach(checkpoint)
    validated: dict[int, torch.Tensor] = {}
    with Run(bus, model=model, optimizers=optimizers) as run:
        for step in run.steps(4):
            for name, stepper in steppers.items():
                stepper.step()
                if name == "one" and step in (2, 3):
                    validated[step] = model["two"].detach().clone()
                    for _ in run.validate([1]):
                        run.report(loss=float(step))
            run.report(loss=0.5)
    assert checkpoint.best_path is not None
    assert torch.equal(Checkpoint.load(checkpoint.best_path)["model"]["two"], validated[2])
    saved = [one.manifest for one in Folder(tmp_path, Files()).saved()]
    assert [(one.step, one.metrics.get("val_loss")) for one in saved] == [
        (2, 2.0),
        (2, None),
        (3, 3.0),
        (3, None),
        (4, 3.0),
    ]
    assert not saved[-1].is_candidate  # the end: of other weights than those that were validated


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


def test_one_that_is_made_at_once_is_not_made_again(
    bus: EventBus, stepper: Stepper, tmp_path: Path
) -> None:
    on = ("looked_at", "batch_finished")
    bus.attach(Checkpoint(tmp_path, on=on, best=None, at_end=False, keep=None))
    before = bus.subscriptions
    with Run(bus, optimizer=stepper.optimizer) as run:
        for _ in run.steps(3):
            stepper.step()
            run.emit("looked_at")
            run.report(loss=1.0)
    assert steps_in(tmp_path) == [1, 2, 3]
    assert bus.subscriptions == before


def test_a_checkpoint_that_is_detached_while_it_waits_saves_nothing(
    bus: EventBus, stepper: Stepper, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path, on="looked_at", best=None)
    handle = bus.attach(checkpoint)
    with Run(bus, optimizer=stepper.optimizer) as run:
        for _ in run.steps(2):
            stepper.step()
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


class Alone(torch.optim.Optimizer):
    """A wrapper that never calls what it inherits from."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def test_an_optimizer_without_hooks_does_no_harm(bus: EventBus) -> None:
    inner = torch.optim.SGD(torch.nn.Linear(1, 1).parameters())
    with Run(bus, optimizers={"one": Alone(inner), "two": object()}) as run:
        for _ in run.steps(1):
            run.report(loss=1.0)
    assert run.outcome == "completed"


def test_the_hooks_are_gone_after_the_run(bus: EventBus) -> None:
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters())
    before = len(optimizer._optimizer_step_post_hooks)
    with Run(bus, optimizer=optimizer) as run:
        assert len(optimizer._optimizer_step_post_hooks) == before + 1
        run.report(loss=1.0)
    assert len(optimizer._optimizer_step_post_hooks) == before


def test_a_failed_validation_that_was_caught_puts_no_later_save_off(
    bus: EventBus, tmp_path: Path
) -> None:
    found = where_saved(bus)
    bus.attach(Checkpoint(tmp_path, on="batch_finished", best=None, at_end=False))
    with Run(bus) as run:
        for step in run.steps(4):
            with suppress(ZeroDivisionError):
                if step == 2:
                    with run.validation():
                        raise ZeroDivisionError
            run.report(loss=1.0)
    assert found == [f"batch_finished {step}" for step in (1, 2, 3, 4)]


def test_one_that_is_detached_leaves_nothing_of_a_save_put_off_behind(
    bus: EventBus, tmp_path: Path
) -> None:
    handle = bus.attach(Checkpoint(tmp_path, on="saved_here", best=None))
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    before = None
    with Run(bus, model=model, optimizer=optimizer) as run:
        for step in run.steps(3):
            before = before or set(bus.subscriptions) - set(handle.subscriptions)
            optimizer.step()
            if step == 2:
                run.emit("saved_here")  # the optimizer has stepped: it is put off
                handle.detach()
                assert set(bus.subscriptions) == before
            run.report(loss=1.0)
    assert Checkpoint.saved(tmp_path) == []


@pytest.mark.parametrize("at_end", [True, False])
def test_the_last_one_put_off_is_made_up_for_at_the_end(
    at_end: bool, bus: EventBus, tmp_path: Path
) -> None:
    bus.attach(Checkpoint(tmp_path, on="batch_finished", best=None, at_end=at_end))
    with Run(bus) as run:
        for step in run.steps(3):
            run.report(loss=1.0)
            if step == 3:
                for _ in run.validate([1, 2]):
                    bus.answer(Stop("enough"))
    assert steps_in(tmp_path) == [1, 2, 3]
