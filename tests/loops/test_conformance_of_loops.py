"""Our own loops keep the rules that `check_loop` knows, in whatever form and whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from eventbus import EventBus, Stop
from eventbus.handlers import Checkpoint
from eventbus.loops import ResumableSampler, Run, fit
from eventbus.testing import check_loop, watch_loop

from .test_run_random_scripts import Cues, PlannedError, Script, script

BATCHES = ["a", "b", "c"]
CONTEXT: dict[str, Any] = {"model": "a model", "optimizer": "an optimizer"}


def train_batches(run: Run, accumulate: int = 1) -> None:
    for _ in run.batches(BATCHES, accumulate):
        if run.boundary:
            run.emit("backward_finished", loss=1.0)
        run.report(loss=1.0)


def validate(run: Run, name: str = "val") -> None:
    for _ in run.validate(["v", "w"], name):
        run.report(loss=2.0)


def epochs(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for _ in run.epochs(2):
            train_batches(run)
            validate(run)
        validate(run, "test")


def epochs_without_validation(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for _ in run.epochs(2):
            train_batches(run)


def accumulated(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for _ in run.epochs(2):
            train_batches(run, accumulate=2)


def steps(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for step in run.steps(5):
            run.report(loss=1.0)
            if step == 3:
                validate(run)


def steps_in_epochs(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for epoch in run.epochs(2):
            for _ in run.steps(3 * epoch):
                run.report(loss=1.0)


def batches_without_epochs(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for _ in range(2):
            train_batches(run)


def several_passes(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for _ in run.epochs(2):
            train_batches(run)
            train_batches(run)


def validated_within_steps(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for _ in run.epochs(2):
            for _ in run.batches(BATCHES):
                validate(run)
                run.report(loss=1.0)


def held_validation(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for _ in run.epochs(2):
            train_batches(run)
            with run.validation("dev"):
                for _ in run.validate(["v"]):
                    run.report(loss=2.0)
                run.report(bleu=0.5)


def left_by_break(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for epoch in run.epochs(5):
            for _ in run.batches(BATCHES):
                run.report(loss=1.0)
                break
            for _ in run.validate(BATCHES):
                run.report(loss=1.0)
                break
            if epoch == 2:
                break


def nested(bus: EventBus) -> None:
    with Run(bus, **CONTEXT) as run:
        for _ in run.epochs(2):
            train_batches(run)
            with Run(bus, name="inner", **CONTEXT) as inner:
                for _ in inner.epochs(2):
                    train_batches(inner)
                    validate(inner)


def one_after_another(bus: EventBus) -> None:
    for fold in range(3):
        with Run(bus, name=f"fold {fold}", **CONTEXT) as run:
            for _ in run.epochs(2):
                train_batches(run)
                validate(run)


def data() -> DataLoader[tuple[Tensor, ...]]:
    points = torch.randn(14, 2, generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(points, (points[:, 0] > 0).long())
    return DataLoader(dataset, batch_size=2, sampler=ResumableSampler(dataset))


def fitted(bus: EventBus, accumulate: int = 1) -> None:
    model = nn.Linear(2, 2)
    fit(
        bus,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=cross_entropy,
        train_loader=data(),
        validation_loader=data(),
        epochs=2,
        metrics={"accuracy": lambda out, y: (out.argmax(1) == y).float().mean()},
        device="cpu",
        accumulate=accumulate,
    )


LOOPS = [
    epochs,
    epochs_without_validation,
    accumulated,
    steps,
    steps_in_epochs,
    batches_without_epochs,
    several_passes,
    validated_within_steps,
    held_validation,
    left_by_break,
    nested,
    one_after_another,
    fitted,
]


@pytest.mark.parametrize("train", LOOPS, ids=lambda train: train.__name__)
def test_a_run_keeps_the_rules_and_heeds_all_answers(train: Callable[[EventBus], None]) -> None:
    check_loop(train).raise_if_any()


def test_a_run_that_has_it_all_misses_nothing() -> None:
    report = check_loop(lambda bus: fitted(bus, accumulate=3))
    assert (report.violations, report.notes, report.runs) == ((), (), 7)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
@pytest.mark.parametrize("step", [1, 5])
def test_a_run_that_fails_keeps_the_rules(error: type[BaseException], step: int) -> None:
    def train(bus: EventBus) -> None:
        with Run(bus, **CONTEXT) as run:
            for _ in run.epochs(2):
                for _ in run.batches(BATCHES):
                    if run.step == step:
                        raise error
                    run.report(loss=1.0)

    report = check_loop(train, expect=error)
    report.raise_if_any()
    assert isinstance(report.error, error)


@pytest.mark.parametrize("at", ["batch_finished", "validation_batch_finished", "epoch_finished"])
@pytest.mark.parametrize("nth", range(1, 15, 3))
def test_a_run_that_is_resumed_keeps_the_rules(tmp_path: Path, at: str, nth: int) -> None:
    for is_first in (True, False):
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, on="batch_finished", resume="auto", best=None))
        seen: list[object] = []

        def stop(event: Any, seen: list[object] = seen) -> Stop | None:
            seen.append(None)
            return Stop("preempted") if len(seen) == nth else None

        if is_first:
            bus.on(at)(stop)
        with watch_loop(bus) as report:
            fitted(bus)
        report.raise_if_any()


def test_the_loop_by_hand_of_the_examples_keeps_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    monkeypatch.delitem(sys.modules, "by_hand", raising=False)
    by_hand = import_module("by_hand")

    def train(bus: EventBus) -> None:
        by_hand.train(bus, *by_hand.disc(), epochs=2)

    check_loop(train, cannot={"StopEpoch", "SkipBatch", "run_failed"}).raise_if_any()


class WithBackward(Script):
    """A loop that emits `backward_finished` in every step, or in none."""

    def act(self, run: Run) -> bool:
        if self.body and self.body[0] == "emit":
            self.body[0] = "report"
        if self.plan["has_backward"] and run.boundary:
            run.emit("backward_finished", loss=1.0)
        return super().act(run)


@settings(max_examples=200)
@given(script, st.booleans())
def test_a_run_keeps_the_rules_whatever_happens(plan: dict[str, Any], has_backward: bool) -> None:
    bus = EventBus()
    Cues(bus, plan["cues"])
    with watch_loop(bus) as report:
        try:
            with Run(bus) as run:
                WithBackward({**plan, "has_backward": has_backward}).run(run)
        except (PlannedError, KeyboardInterrupt):
            pass
    report.raise_if_any()


# -- what only a loop with tensors gets wrong


@pytest.mark.parametrize(
    ("signal", "name", "wrap"),
    [
        ("backward_finished", "loss", lambda tensor: tensor),
        ("batch_finished", "loss", lambda tensor: tensor),
        ("batch_finished", "outputs", lambda tensor: {"logits": [tensor]}),
    ],
)
def test_a_tensor_with_its_graph_is_told(
    signal: str, name: str, wrap: Callable[[Tensor], Any]
) -> None:
    attached = torch.ones(1, requires_grad=True).sum()

    def train(bus: EventBus) -> None:
        loop = bus.bind(sender="train")
        loop.emit("run_opened")
        loop.emit("run_started")
        loop.emit("batch_started", epoch=0, step=1)
        loop.emit(signal, epoch=0, step=1, **{name: wrap(attached)})

    messages = [violation.message for violation in check_loop(train, answers=False).violations]
    assert f"{name!r} has its graph attached, which keeps it in memory: detach it" in messages


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (torch.ones(2), "metrics['loss'] is to be one number; got a Tensor"),
        (torch.ones(1, requires_grad=True), "metrics['loss'] has its graph attached: detach it"),
    ],
)
def test_a_metric_that_is_no_detached_scalar_is_told(value: Tensor, complaint: str) -> None:
    def train(bus: EventBus) -> None:
        bus.bind(sender="train").emit(
            "batch_finished", epoch=0, step=1, loss=1.0, metrics={"loss": value}
        )

    messages = [violation.message for violation in check_loop(train, answers=False).violations]
    assert complaint in messages


def test_a_check_reads_no_metric_of_a_step_from_its_device() -> None:
    class Unreadable(Tensor):
        def __float__(self) -> float:
            raise AssertionError("that would wait for the device")

    value = torch.ones(()).as_subclass(Unreadable)
    bus = EventBus()
    with watch_loop(bus) as report, Run(bus) as run:
        for _ in run.batches(BATCHES):
            run.report(loss=value)
    report.raise_if_any()


def test_steps_of_inner_runs_alone_are_no_place_for_a_trial() -> None:
    def folds(bus: EventBus) -> None:
        with Run(bus, model=1, optimizer=1) as outer:
            for fold in outer.epochs(2):
                with Run(bus, name=f"fold {fold}", model=1, optimizer=1) as run:
                    for _ in run.epochs(2):
                        for _ in run.batches([[1], [2], [3]]):
                            run.report(loss=1.0)

    report = check_loop(folds)
    assert [str(one) for one in report.violations] == []
    assert any("no handler without sender= hears of that" in note for note in report.notes)


def test_a_stop_that_comes_while_a_batch_is_loaded_may_wait_for_the_end_of_its_step() -> None:
    bus = EventBus()

    def loader() -> Iterator[int]:
        yield 0
        bus.answer(Stop("SIGTERM"))
        yield 1

    with watch_loop(bus) as report, Run(bus) as run:
        for _ in run.epochs(1):
            for _ in run.batches(loader()):
                run.report(loss=1.0)
    report.raise_if_any()


def test_the_step_after_that_one_may_not_begin() -> None:
    bus = EventBus()
    loop = bus.bind(sender="train")
    with watch_loop(bus) as report:
        loop.emit("run_opened")
        loop.emit("run_started")
        loop.transform("loader_opened", [1, 2], epoch=0, step=0)
        bus.answer(Stop("SIGTERM"))
        for step in (1, 2):
            loop.transform("batch_loaded", step, epoch=0, step=step, batch_index=step)
            loop.emit("batch_started", epoch=0, step=step)
            loop.emit("batch_finished", epoch=0, step=step, metrics={})
        loop.emit("run_finished", reason="SIGTERM", epoch=0, step=2, metrics={})
        loop.emit("run_closed", outcome="stopped")
    told = [one.message for one in report.violations if "SIGTERM" in one.message]
    assert told == [
        "loads another batch after Stop('SIGTERM') was given",
        "starts another step after Stop('SIGTERM') was given",
    ]


def test_a_stop_from_elsewhere_while_a_batch_is_altered_lets_its_step_be_taken() -> None:
    bus = EventBus()

    @bus.on("batch_loaded")
    def stop(step: int) -> None:
        if step == 2:
            bus.answer(Stop("asked from elsewhere"))

    with watch_loop(bus) as report, Run(bus, **CONTEXT) as run:
        train_batches(run)
    assert report.violations == ()
    assert run.step == 2
