"""What is special to Ignite: its order of events, its exceptions, its own checkpoints."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from eventbus import EventBus, SkipBatch, Stop, StopEpoch
from eventbus.handlers import NonFiniteGuard
from eventbus.testing import capture

from .trained_by.task import Task

pytest.importorskip("ignite")
from ignite.engine import (
    Engine,
    Events,
    create_supervised_evaluator,
    create_supervised_trainer,
)
from ignite.metrics import Accuracy, Loss

from eventbus.loops import ignite


class Parts:
    """A trainer and an evaluator for the task, on a bus."""

    def __init__(self, bus: EventBus, task: Task | None = None, **attached: Any) -> None:
        self.task = task or Task()
        self.model = self.task.model()
        self.optimizer = self.task.optimizer(self.model)
        self.loss_fn = nn.CrossEntropyLoss()
        self.trainer = create_supervised_trainer(self.model, self.optimizer, self.loss_fn)
        metrics = {"loss": Loss(self.loss_fn), "accuracy": Accuracy()}
        self.evaluator = create_supervised_evaluator(self.model, metrics=metrics)
        given = {"model": self.model, "optimizer": self.optimizer, "validation": self.evaluator}
        self.emitter = ignite.attach(self.trainer, bus, **{**given, **attached})

    def validate(self) -> None:
        self.evaluator.run(self.task.validation_loader)

    def run(self, epochs: int = 1) -> None:
        self.trainer.run(self.task.train_loader, max_epochs=epochs)


def placed(event: Any, bus: EventBus, is_before: bool, task: Task | None = None) -> Parts:
    """Return a trainer that validates on an event, by a handler from before or after `attach`."""
    parts = Parts(bus, task)
    parts.emitter.detach()
    model, optimizer = parts.model, parts.optimizer
    parts.trainer = create_supervised_trainer(
        model, optimizer, parts.loss_fn, gradient_accumulation_steps=parts.task.accumulate
    )
    if is_before:
        parts.trainer.add_event_handler(event, parts.validate)
    parts.emitter = ignite.attach(
        parts.trainer, bus, model=model, optimizer=optimizer, validation=parts.evaluator
    )
    if not is_before:
        parts.trainer.add_event_handler(event, parts.validate)
    return parts


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


@pytest.mark.parametrize("error", [ValueError("bad data"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failure_closes_everything_once_and_stays_what_it_was(
    bus: EventBus, error: BaseException
) -> None:
    parts = Parts(bus)

    @parts.trainer.on(Events.ITERATION_COMPLETED(once=2))
    def fail() -> None:
        raise error

    with capture(bus) as recording, pytest.raises(type(error)) as raised:
        parts.run()
    assert raised.value is error
    assert recording.names[-4:] == [
        "batch_finished",
        "epoch_interrupted",
        "run_failed",
        "run_closed",
    ]
    assert recording.of("run_failed")[0]["exception"] is error


def test_a_list_of_optimizers_is_refused_where_it_is_attached(bus: EventBus) -> None:
    with pytest.raises(TypeError, match=r"optimizer= takes one optimizer itself, and several go"):
        Parts(bus, optimizer=[torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)])


def test_whoever_else_is_told_of_an_exception_does_not_make_it_disappear(bus: EventBus) -> None:
    parts, heard = Parts(bus), []
    parts.trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, e: heard.append(e))

    @bus.on("batch_finished")
    def fail(step: int) -> None:
        raise ValueError("no")

    with capture(bus) as recording, pytest.raises(ValueError, match="no"):
        parts.run()
    assert heard
    assert recording.names.count("run_closed") == 1


def test_validations_belong_to_their_epoch_whenever_they_were_registered(bus: EventBus) -> None:
    parts = Parts(bus)
    parts.trainer.add_event_handler(Events.EPOCH_COMPLETED, parts.validate)
    with capture(bus) as recording:
        parts.run()
    assert set(recording.of("epoch_finished")[0]["metrics"]) == {"loss", "val_loss", "val_accuracy"}
    assert recording.of("run_finished")[0]["metrics"]["val_accuracy"] >= 0


def test_a_validation_within_an_epoch_and_one_after_the_last_are_told(bus: EventBus) -> None:
    parts = Parts(bus)
    parts.trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), parts.validate)
    parts.trainer.add_event_handler(Events.COMPLETED, parts.validate)
    with capture(bus) as recording:
        parts.run()
    told = [(one["round"], one["epoch"], one["step"]) for one in recording.of("validation_done")]
    assert told == [(1, 1, 2), (2, 1, 4), (3, 1, 4)]
    assert recording.names[-2:] == ["run_finished", "run_closed"]


@pytest.mark.parametrize("is_before", [True, False])
def test_a_step_is_over_before_others_work_on_its_end_whenever_they_were_placed(
    bus: EventBus, is_before: bool
) -> None:
    parts = placed(Events.ITERATION_COMPLETED(every=2), bus, is_before)
    with capture(bus) as recording:
        parts.run()
    told = [name for name in recording.names if name in ("batch_finished", "validation_done")]
    assert told == ["batch_finished", "batch_finished", "validation_done"] * 2
    assert [one["step"] for one in recording.of("validation_done")] == [2, 4]


@pytest.mark.parametrize("is_before", [True, False])
def test_a_validation_before_the_first_epoch_is_told_whenever_it_was_placed(
    bus: EventBus, is_before: bool
) -> None:
    parts = placed(Events.STARTED, bus, is_before)
    with capture(bus) as recording:
        parts.run()
    assert recording.names.count("run_started") == 1
    assert [(one["epoch"], one["step"]) for one in recording.of("validation_done")] == [(0, 0)]


@pytest.mark.parametrize("is_before", [True, False])
def test_a_validation_as_an_epoch_begins_belongs_to_it(bus: EventBus, is_before: bool) -> None:
    parts = placed(Events.EPOCH_STARTED, bus, is_before)
    with capture(bus) as recording:
        parts.run(2)
    assert [one["epoch"] for one in recording.of("validation_done")] == [1, 2]
    assert all("val_loss" in one["metrics"] for one in recording.of("epoch_finished"))


@pytest.mark.parametrize("event", [Events.ITERATION_STARTED, Events.ITERATION_COMPLETED])
def test_a_validation_within_a_step_leaves_it_whole(bus: EventBus, event: Any) -> None:
    parts = placed(event, bus, is_before=True, task=Task(accumulate=2))
    with capture(bus) as recording:
        parts.run()
    assert len(recording.of("validation_done")) == 4
    assert [one["batch_size"] for one in recording.of("batch_finished")] == [10, 10]
    assert recording.of("batch_skipped") == []


def test_a_validation_after_an_epoch_is_no_part_of_what_was_left_over(bus: EventBus) -> None:
    parts = placed(Events.EPOCH_COMPLETED, bus, is_before=True, task=Task(batches=3, accumulate=2))
    with capture(bus) as recording:
        parts.run()
    names = recording.names
    assert names.index("batch_skipped") < names.index("validation_started")
    assert names.index("validation_done") < names.index("epoch_finished")


def test_a_state_that_is_set_as_the_trainer_starts_is_that_of_the_run(bus: EventBus) -> None:
    trainer = Engine(lambda engine, batch: batch)

    @trainer.on(Events.STARTED)
    def go_on(engine: Engine) -> None:
        engine.state.epoch, engine.state.iteration = 2, 4

    ignite.attach(trainer, bus)
    with capture(bus) as recording:
        trainer.run([1.0, 2.0], max_epochs=3)
    assert [(one["epoch"], one["step"]) for one in recording.of("epoch_finished")] == [(3, 6)]


@pytest.mark.parametrize("skips", [True, False])
def test_an_epoch_that_somebody_terminates_was_left(bus: EventBus, skips: bool) -> None:
    parts = Parts(bus)

    @parts.trainer.on(Events.ITERATION_COMPLETED(once=2))
    def leave() -> None:
        parts.trainer.terminate_epoch(skip_epoch_completed=skips)

    with capture(bus) as recording:
        parts.run(2)
    told = [(one["step"], one["complete"]) for one in recording.of("epoch_finished")]
    assert told == [(2, False), (6, True)]


def test_an_evaluator_of_its_own_says_nothing(bus: EventBus) -> None:
    parts = Parts(bus)
    with capture(bus) as recording:
        parts.validate()
    assert recording.names == []


def test_several_evaluators_go_by_their_names(bus: EventBus) -> None:
    other = create_supervised_evaluator(Task().model(), metrics={"accuracy": Accuracy()})
    parts = Parts(bus)
    parts.emitter.validate_by("train", other)
    parts.trainer.add_event_handler(Events.EPOCH_COMPLETED, parts.validate)
    parts.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: other.run(parts.task.train_loader)
    )
    with capture(bus) as recording:
        parts.run()
    assert [one["name"] for one in recording.of("validation_done")] == ["val", "train"]
    assert "train_accuracy" in recording.of("epoch_finished")[0]["metrics"]


def test_a_second_run_goes_on_in_the_counts_of_the_engine(bus: EventBus) -> None:
    parts = Parts(bus)
    with capture(bus) as recording:
        parts.run(1)
        parts.run(2)
    assert [one["resumed_from"] for one in recording.of("run_started")] == [
        None,
        "a checkpoint of Ignite's",
    ]
    assert [one["epoch"] for one in recording.of("epoch_finished")] == [1, 2]
    assert recording.of("batch_finished")[-1]["step"] == 8


def test_a_trainer_goes_silent_once_detached(bus: EventBus) -> None:
    parts = Parts(bus)
    parts.emitter.detach()
    parts.trainer.add_event_handler(Events.EPOCH_COMPLETED, parts.validate)
    with capture(bus) as recording:
        parts.run()
    assert recording.names == []


def test_an_engine_without_data_has_steps_without_batches(bus: EventBus) -> None:
    trainer = Engine(lambda engine, batch: 0.5)
    ignite.attach(trainer, bus)
    with capture(bus) as recording:
        trainer.run(max_epochs=1, epoch_length=2)
    assert recording.names == [
        "run_opened",
        "run_started",
        "epoch_started",
        *["batch_started", "batch_finished"] * 2,
        "epoch_finished",
        "run_finished",
        "run_closed",
    ]


def test_data_without_a_length_ends_the_epoch_where_it_ends(bus: EventBus) -> None:
    trainer = Engine(lambda engine, batch: batch)
    ignite.attach(trainer, bus)
    with capture(bus) as recording:
        trainer.run(iter([1.0, 2.0, 3.0]), max_epochs=1)
    (finished,) = recording.of("epoch_finished")
    assert (finished["step"], finished["metrics"]["loss"], finished["complete"]) == (3, 2.0, True)


def test_an_output_is_read_as_one_says(bus: EventBus) -> None:
    trainer = Engine(lambda engine, batch: (batch, 2 * batch))
    ignite.attach(trainer, bus, report=lambda output: {"loss": output[0], "double": output[1]})
    with capture(bus) as recording:
        trainer.run([1.0, 3.0], max_epochs=1)
    assert dict(recording.of("epoch_finished")[0]["metrics"]) == {"loss": 2.0, "double": 4.0}


def test_outputs_and_targets_of_a_mapping_become_fields(bus: EventBus) -> None:
    trainer = Engine(lambda engine, batch: {"loss": 0.5, "outputs": batch, "targets": batch})
    ignite.attach(trainer, bus)
    with capture(bus) as recording:
        trainer.run([torch.zeros(3)], max_epochs=1)
    finished = recording.of("batch_finished")[0]
    assert (finished["loss"], len(finished["outputs"]), finished["batch_size"]) == (0.5, 3, 3)


def test_accumulation_counts_optimizer_steps(bus: EventBus) -> None:
    parts = Parts(bus)
    trainer = create_supervised_trainer(
        parts.model, parts.optimizer, parts.loss_fn, gradient_accumulation_steps=2
    )
    ignite.attach(trainer, bus, model=parts.model, optimizer=parts.optimizer)
    with capture(bus) as recording:
        trainer.run(parts.task.train_loader, max_epochs=1)
    finished = recording.of("batch_finished")
    assert [(one["step"], one["batch_size"]) for one in finished] == [(1, 10), (2, 10)]
    assert [one["batch_index"] for one in recording.of("batch_loaded")] == [1, 2, 3, 4]


def test_batches_that_no_step_used_up_are_told_as_skipped(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts(bus, Task(batches=3))
    trainer = create_supervised_trainer(
        parts.model, parts.optimizer, parts.loss_fn, gradient_accumulation_steps=2
    )
    ignite.attach(trainer, bus, model=parts.model, optimizer=parts.optimizer)
    with capture(bus) as recording, caplog.at_level(logging.WARNING):
        trainer.run(parts.task.train_loader, max_epochs=3)
    assert recording.names[-4:] == [
        "batch_skipped",
        "epoch_finished",
        "run_finished",
        "run_closed",
    ]
    told = "gradients of micro-batches left over in an epoch go into the first step of the next"
    assert caplog.text.count(told) == 1


def test_a_stop_does_not_wait_for_a_step_that_never_comes(bus: EventBus) -> None:
    """As under a loss scaler that gives up each step."""
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight])

    def update(engine: Engine, batch: float) -> float:
        if engine.state.iteration == 1:
            optimizer.step()
        return batch

    trainer = Engine(update)
    ignite.attach(trainer, bus, optimizer=optimizer)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=2), lambda: bus.answer(Stop("SIGTERM"))
    )
    with capture(bus) as recording:
        trainer.run([1.0] * 9, max_epochs=1)
    assert trainer.state.iteration == 2
    assert recording.of("run_finished")[0]["reason"] == "SIGTERM"


def test_a_stop_with_an_exit_code_leaves_the_process_after_the_run_is_closed(
    bus: EventBus,
) -> None:
    parts = Parts(bus)

    @bus.on("batch_finished")
    def stop(step: int) -> Stop:
        return Stop("SIGTERM", exit_code=143)

    with capture(bus) as recording, pytest.raises(SystemExit) as left:
        parts.run()
    assert left.value.code == 143
    assert recording.names[-2:] == ["run_finished", "run_closed"]


def test_a_stop_epoch_in_the_last_epoch_ends_the_run(bus: EventBus) -> None:
    parts = Parts(bus)

    @bus.on("batch_finished")
    def stop(step: int) -> StopEpoch:
        return StopEpoch("enough")

    with capture(bus) as recording:
        parts.run(2)
    assert [one["complete"] for one in recording.of("epoch_finished")] == [False, False]
    assert recording.of("run_finished")[0]["reason"] == "completed"


def test_a_trainer_that_terminates_itself_left_its_epoch(bus: EventBus) -> None:
    parts = Parts(bus)
    parts.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=2), lambda: parts.trainer.terminate()
    )
    with capture(bus) as recording:
        parts.run()
    assert recording.of("epoch_finished")[0]["complete"] is False
    assert recording.names[-2:] == ["run_finished", "run_closed"]


def test_a_trainer_that_terminates_quietly_closes_its_run(bus: EventBus) -> None:
    parts = Parts(bus)
    parts.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=2), lambda: parts.trainer.terminate(skip_completed=True)
    )
    with capture(bus) as recording:
        parts.run()
    assert recording.names[-2:] == ["run_finished", "run_closed"]


def test_a_skipped_batch_leaves_momentum_and_weights_alone(bus: EventBus) -> None:
    parts = Parts(bus)
    before = [one.detach().clone() for one in parts.model.parameters()]

    @bus.on("backward_finished")
    def skip(step: int) -> SkipBatch:
        return SkipBatch("all of them")

    parts.run()
    for parameter, was in zip(parts.model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, was, rtol=0, atol=0)
    assert not parts.optimizer.state


def test_a_guard_sees_the_loss_before_the_step_where_the_criterion_was_given(
    bus: EventBus,
) -> None:
    parts = Parts(bus)
    broken = create_supervised_trainer(
        parts.model, parts.optimizer, parts.loss_fn, prepare_batch=spoiled
    )
    ignite.attach(broken, bus, model=parts.model, optimizer=parts.optimizer, loss_fn=parts.loss_fn)
    bus.attach(NonFiniteGuard("skip", watch=["loss"], max_skips=99))
    with capture(bus) as recording:
        broken.run(parts.task.train_loader, max_epochs=1)
    assert [one["reason"] for one in recording.of("batch_skipped")] == [
        "not finite in step 1: loss is nan"
    ] * 4


def spoiled(batch: Any, **_: Any) -> Any:
    inputs, targets = batch
    return inputs * float("nan"), targets


def test_what_ignite_has_no_place_for_is_said_once_to_whom_it_concerns(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts(bus)

    @bus.on("loader_opened")
    def shuffle(loader: Any) -> Any:
        return loader

    with caplog.at_level(logging.WARNING), capture(bus):
        parts.run(2)
    told = [record.message for record in caplog.records if "loader_opened" in record.message]
    assert told == [
        "shuffle: no loader_opened from Ignite: its data is iterated as it was given to run()"
    ]


def test_without_an_optimizer_ignite_says_what_is_missing(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Engine(lambda engine, batch: batch)
    ignite.attach(trainer, bus)
    with caplog.at_level(logging.WARNING):
        trainer.run([1.0], max_epochs=1)
    assert "without optimizer= no backward_finished" in caplog.text


def test_with_the_criterion_alone_each_batch_is_a_step(bus: EventBus) -> None:
    parts = Parts(bus)
    parts.emitter.detach()
    ignite.attach(parts.trainer, bus, model=parts.model, loss_fn=parts.loss_fn)
    with capture(bus) as recording:
        parts.run()
    finished = recording.of("batch_finished")
    assert [one["step"] for one in finished] == list(range(1, len(parts.task.train_loader) + 1))
    assert all("loss" in one["metrics"] for one in finished)
    assert not recording.of("batch_skipped")


@pytest.mark.parametrize("waits", [True, False])
def test_gradients_that_no_handler_sees_are_told_of_once_where_one_waits(
    bus: EventBus, caplog: pytest.LogCaptureFixture, waits: bool
) -> None:
    weights = {name: nn.Parameter(torch.ones(())) for name in ("first", "second")}
    optimizers = {name: torch.optim.SGD([one]) for name, one in weights.items()}

    def adversarial(engine: Engine, batch: Any) -> None:
        for name, optimizer in optimizers.items():
            weights[name].grad = torch.ones(())
            optimizer.step()

    trainer = Engine(adversarial)
    ignite.attach(trainer, bus, optimizers=optimizers)
    told: list[int] = []
    if waits:
        bus.on("backward_finished")(lambda step: told.append(step))
    with caplog.at_level(logging.WARNING):
        trainer.run([1, 2], max_epochs=1)
    assert told == ([1, 2] if waits else [])
    assert caplog.text.count("steps optimizers several times in one step") == len(told) / 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"validation": nn.Linear(1, 1)}, "validation= takes the evaluator, an Engine"),
        ({"loss_fn": nn.functional.mse_loss}, "loss_fn= takes the criterion as a module"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(bus: EventBus, wrong: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        Parts(bus, **wrong)


def test_a_trainer_and_a_bus_are_not_taken_for_each_other(bus: EventBus) -> None:
    trainer = Engine(lambda engine, batch: batch)
    with pytest.raises(TypeError, match="the trainer is an Engine"):
        ignite.attach(bus, trainer)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(TypeError, match="takes an EventBus; got None"):
        ignite.attach(trainer, None)  # type: ignore[arg-type]  # likewise


def test_the_criterion_is_not_called_for_nobody(bus: EventBus) -> None:
    calls = []
    parts = Parts(bus)
    criterion = nn.CrossEntropyLoss()
    criterion.register_forward_hook(lambda *_: calls.append(1))
    Parts(bus, loss_fn=criterion)
    parts.emitter.detach()
    evaluator = create_supervised_evaluator(parts.model)
    ignite.attach(parts.trainer, bus, model=parts.model, validation=evaluator, loss_fn=criterion)
    parts.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: evaluator.run(parts.task.validation_loader)
    )
    parts.run()
    assert calls == []


def test_a_missing_ignite_is_one_clear_line() -> None:
    code = "import sys; sys.modules['ignite'] = None; import eventbus.loops.ignite"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: eventbus.loops.ignite needs Ignite: "
        "pip install 'training-eventbus[ignite]'"
    )
