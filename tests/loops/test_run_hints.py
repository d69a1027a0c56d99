"""What a run says of a loop whose author would miss something."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import pytest
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


def test_a_loop_without_backward_finished_is_told_who_waits_for_it(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    said_at: list[int] = []

    @bus.on("backward_finished")
    def clip(step: int) -> None: ...

    @bus.on("batch_started")
    def look(step: int) -> None:
        said_at.append(len(warnings.messages))

    train(bus)
    assert said_at == [0, 1, 1, 1]
    (message,) = warnings.messages
    assert message.startswith("this loop emits no backward_finished; waiting for it: clip; write")


def test_a_pattern_waits_for_no_signal(bus: EventBus, warnings: pytest.LogCaptureFixture) -> None:
    bus.on("*")(lambda event: None)
    train(bus)
    assert warnings.messages == []


@pytest.mark.parametrize("signal", ["backward_finished", backward_finished])
@pytest.mark.parametrize("by", ["run", "bus"])
def test_a_loop_with_backward_finished_is_told_nothing(
    bus: EventBus, warnings: pytest.LogCaptureFixture, signal: str, by: str
) -> None:
    bus.on("backward_finished")(lambda step: None)
    with Run(bus) as run:
        for _ in run.batches([1, 2, 3]):
            emitter = run if by == "run" else bus
            emitter.emit(signal, step=run.step, epoch=0)
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
