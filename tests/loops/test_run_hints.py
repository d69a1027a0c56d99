"""What a run says of a loop whose author would miss something."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from eventbus import EventBus, Stop
from eventbus.loops import ResumableSampler, Run
from eventbus.signals import backward_finished

from .transcripts import answer_on


@pytest.fixture(autouse=True)
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="eventbus.loops")
    return caplog


def validate(run: Run, *names: str) -> None:
    for name in names:
        for _ in run.validate([1], name=name):
            run.report(loss=1.0)


def train(bus: EventBus, within: Iterable[str] = (), after: Iterable[str] = ()) -> None:
    """Two epochs with these validations, and what is measured at the end."""
    with Run(bus) as run:
        for _ in run.epochs(2):
            for _ in run.batches([1, 2]):
                run.report(loss=1.0)
            validate(run, *within)
        validate(run, *after)


def test_a_validation_after_the_stop_is_told_to_be_left_out(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    answer_on(bus, "epoch_finished", Stop("good enough"))
    train(bus, within=["val"], after=["test", "other"])
    (message,) = warnings.messages
    assert message.startswith("validation 'test' is left out: ")
    assert "(good enough)" in message
    assert message.endswith("comes after the `with Run` block")


def test_a_validation_beside_the_one_that_stopped_is_told_to_be_left_out(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    answer_on(bus, "validation_done", Stop("good enough"))
    train(bus, within=["a", "b"])
    (message,) = warnings.messages
    assert message.startswith("validation 'b' of epoch 1 is left out")
    assert 'on="epoch_finished"' in message


def test_what_an_exit_code_leaves_no_time_for_is_not_missed(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    answer_on(bus, "epoch_finished", Stop("preempted", exit_code=143))
    with pytest.raises(SystemExit):
        train(bus, within=["val"], after=["test"])
    assert warnings.messages == []


def test_the_validation_of_an_epoch_that_a_stop_cut_is_not_missed(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    @bus.on("batch_finished")
    def stop(step: int) -> Stop | None:
        return Stop("enough steps") if step == 3 else None

    with Run(bus) as run:
        for _ in run.epochs(2):
            for _ in run.batches([1, 2]):
                run.report(loss=1.0)
                validate(run, "often")
            validate(run, "val")
    assert warnings.messages == []


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)


@pytest.fixture
def said_at(bus: EventBus, warnings: pytest.LogCaptureFixture) -> list[int]:
    """Return what is filled with the number of warnings before each step; `clip` waits."""
    said_at: list[int] = []

    @bus.on("backward_finished")
    def clip(step: int) -> None: ...

    @bus.on("batch_started")
    def look(step: int) -> None:
        said_at.append(len(warnings.messages))

    return said_at


def test_a_loop_without_backward_finished_is_told_after_its_first_epoch_who_waits_for_it(
    bus: EventBus, warnings: pytest.LogCaptureFixture, said_at: list[int]
) -> None:
    sgd = optimizer()
    with Run(bus, optimizer=sgd) as run:
        for _ in run.epochs(3):
            for _ in run.batches([1, 2]):
                sgd.step()
                run.report(loss=1.0)
    assert said_at == [0, 0, 1, 1, 1, 1]
    (message,) = warnings.messages
    assert message.startswith("this loop emits no backward_finished; waiting for it: clip; write")


@pytest.mark.parametrize("loop", ["batches", "steps"])
@pytest.mark.parametrize("steps", [3, 40])
def test_a_loop_without_epochs_is_told_of_it_after_some_steps_or_at_its_end(
    loop: str,
    steps: int,
    bus: EventBus,
    warnings: pytest.LogCaptureFixture,
    said_at: list[int],
) -> None:
    sgd = optimizer()
    with Run(bus, optimizer=sgd) as run:
        for _ in run.steps(steps) if loop == "steps" else run.batches(range(steps)):
            sgd.step()
    assert said_at == [0] * min(steps, 32) + [1] * (steps - 32)
    assert len(warnings.messages) == 1


def is_fourth(run: Run) -> bool:
    return run.step % 4 == 0


def is_later(run: Run) -> bool:
    return run.epoch > 1


def is_far_on(run: Run) -> bool:
    return run.step > 35


@pytest.mark.parametrize("trains", [is_fourth, is_later, is_far_on, lambda run: False])
@pytest.mark.parametrize("loops", ["epochs", "steps"])
def test_a_loop_is_told_nothing_before_it_has_trained(
    trains: Callable[[Run], bool],
    loops: str,
    bus: EventBus,
    warnings: pytest.LogCaptureFixture,
    said_at: list[int],
) -> None:
    sgd = optimizer()

    def do_step(run: Run) -> None:
        if trains(run):
            run.emit("backward_finished")
            sgd.step()

    with Run(bus, optimizer=sgd) as run:
        for _ in run.epochs(3) if loops == "epochs" else ():
            for _ in run.batches(range(13)):
                do_step(run)
        for _ in run.steps(40):
            do_step(run)
    assert len(said_at) == 40
    assert warnings.messages == []


@pytest.mark.parametrize("sender", [None, "train"])
def test_an_inner_run_is_told_of_no_handler_that_it_cannot_reach(
    sender: str | None, bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    bus.on("backward_finished", sender=sender)(lambda step: None)
    sgd = optimizer()
    with Run(bus, optimizer=sgd) as run:
        for _ in run.epochs(1):
            for _ in run.batches([1, 2]):
                run.emit("backward_finished")
                sgd.step()
            with Run(bus, optimizer=sgd, name="probe") as probe:
                for _ in probe.batches([1, 2]):
                    sgd.step()
    assert warnings.messages == []


def test_an_inner_run_is_told_of_a_handler_of_its_own(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    bus.on("backward_finished", sender="probe")(lambda step: None)
    sgd = optimizer()
    with Run(bus), Run(bus, optimizer=sgd, name="probe") as probe:
        for _ in probe.batches([1, 2]):
            sgd.step()
    assert len(warnings.messages) == 1


def test_a_pattern_waits_for_no_signal(bus: EventBus, warnings: pytest.LogCaptureFixture) -> None:
    bus.on("*")(lambda event: None)
    sgd = optimizer()
    with Run(bus, optimizer=sgd) as run:
        for _ in run.batches([1, 2]):
            sgd.step()
    assert warnings.messages == []


@pytest.mark.parametrize("signal", ["backward_finished", backward_finished])
@pytest.mark.parametrize("by", ["run", "bus"])
def test_a_loop_with_backward_finished_is_told_nothing(
    bus: EventBus, warnings: pytest.LogCaptureFixture, signal: str, by: str
) -> None:
    bus.on("backward_finished")(lambda step: None)
    sgd = optimizer()
    with Run(bus, optimizer=sgd) as run:
        for _ in run.batches([1, 2, 3]):
            emitter = run if by == "run" else bus
            emitter.emit(signal, step=run.step, epoch=0)
            sgd.step()
    assert warnings.messages == []


def sampled(size: int = 4, **options: Any) -> Any:
    sampler = ResumableSampler(size, **options)
    return DataLoader(range(size), 2, sampler=sampler)  # type: ignore[arg-type]  # a range is a dataset


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "zip": lambda loader: zip(loader, sampled(6, shuffle=False), strict=False),
    "islice": lambda loader: islice(loader, 2),
    "enumerate": enumerate,
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_sampler_that_is_told_no_epoch_is_told_of_once_in_the_second(
    kind: str, bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    loader, told = sampled(), []
    with Run(bus) as run:
        for _ in run.epochs(4):
            told.append(len(warnings.messages))
            for _ in run.batches(WRAPPERS[kind](loader)):
                run.report(loss=1.0)
    assert told == [0, 0, 1, 1]
    assert "a ResumableSampler began the same order again" in warnings.text


def test_a_sampler_beside_run_batches_is_told_of_too(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    beside = sampled()
    with Run(bus) as run:
        for _ in run.epochs(2):
            for _ in zip(run.batches(sampled()), beside, strict=False):
                run.report(loss=1.0)
    assert len(warnings.messages) == 1


def validate_pairs(run: Run, loader: Any) -> None:
    for _ in run.validate(zip(loader, loader, strict=True)):
        run.report(loss=1.0)


def validate_by_hand(run: Run, loader: Any) -> None:
    with run.validation():
        run.report(batches=len(list(loader)))


@pytest.mark.parametrize("do", [validate_pairs, validate_by_hand])
def test_a_sampler_of_a_validation_is_not_told_of(
    do: Callable[[Run, Any], None], bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    validated = sampled()
    with Run(bus) as run:
        for _ in run.epochs(3):
            for _ in run.batches([1, 2]):
                run.report(loss=1.0)
            do(run, validated)
    assert warnings.messages == []


@pytest.mark.parametrize("do", [validate_pairs, validate_by_hand])
def test_a_sampler_of_the_training_is_told_of_beside_that_of_a_validation(
    do: Callable[[Run, Any], None], bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    loader, validated, told = sampled(), sampled(), []
    with Run(bus) as run:
        for _ in run.epochs(3):
            told.append(len(warnings.messages))
            for _ in enumerate(run.batches(zip(loader, loader, strict=True))):
                run.report(loss=1.0)
            do(run, validated)
    assert told == [0, 1, 1]


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_sampler_that_is_to_give_one_order_is_not_told_of(
    shuffle: bool, bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    train_data, validated, told = sampled(), sampled(shuffle=shuffle), sampled(shuffle=shuffle)
    by_hand = sampled()
    for _ in range(3):
        list(by_hand)
    with Run(bus) as run:
        for epoch in run.epochs(3):
            told.sampler.set_epoch(epoch)
            for _ in run.batches(train_data):
                run.report(loss=1.0)
            for _ in enumerate(told):
                pass
            for _ in run.validate(validated):
                run.report(loss=1.0)
    assert warnings.messages == []
