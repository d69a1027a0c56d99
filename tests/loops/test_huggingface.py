"""What is special to Hugging Face: a Trainer that says little, and its own checkpoints."""

from __future__ import annotations

import copy
import logging
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset

from eventbus import EventBus, SkipBatch, Stop, StopEpoch
from eventbus.handlers import Checkpoint, EarlyStopping, NonFiniteGuard
from eventbus.testing import capture

from .trained_by.task import CLASSES, Task, Trained

pytest.importorskip("transformers")
from accelerate.state import GradientState
from transformers import PreTrainedConfig, Trainer, TrainerCallback

from eventbus.loops import huggingface
from eventbus.loops._huggingface_trainer import unscale

from .test_any_loop_resumes import StepCounter
from .trained_by.huggingface import Model, arguments, collate


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


class Parts:
    """A Trainer for the task, on a bus."""

    def __init__(
        self,
        bus: EventBus,
        folder: Path,
        *,
        task: Task | None = None,
        model: nn.Module | None = None,
        kind: type[Trainer] = Trainer,
        given: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        task = task or Task()
        self.model = model or Model(task.model())
        self.emitter = huggingface.Emitter(bus)
        self.arguments = arguments(
            folder, **{"num_train_epochs": 1, "learning_rate": 0.1, **changes}
        )
        self.given = {
            "data_collator": collate,
            "train_dataset": task.train_data,
            "eval_dataset": task.validation_data,
            "callbacks": [self.emitter],
            **(given or {}),
        }
        self.trainer = kind(self.model, self.arguments, **self.given)
        self.train = self.trainer.train

    @property
    def weights(self) -> list[Tensor]:
        return Trained.of(self.model).weights


def loss_of(task: Task, first: int, last: int) -> float:
    """Return the mean loss of some training samples, counted from 0, with the first weights."""
    inputs, targets = task.train_data[first:last]
    with torch.no_grad():
        return float(cross_entropy(task.model()(inputs), targets))


# -- failures


@pytest.mark.parametrize("error", [ValueError("bad data"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize(
    "place", ["on_step_begin", "on_substep_end", "on_step_end", "on_evaluate", "on_save"]
)
def test_a_failure_closes_everything_once_and_stays_what_it_was(
    bus: EventBus, tmp_path: Path, place: str, error: BaseException
) -> None:
    class Failing(TrainerCallback):
        pass

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    setattr(Failing, place, fail)
    parts = Parts(
        bus, tmp_path, gradient_accumulation_steps=2, eval_strategy="epoch", save_strategy="epoch"
    )
    parts.trainer.add_callback(Failing())
    with capture(bus) as recording, pytest.raises(type(error)) as raised:
        parts.train()
    assert raised.value is error
    assert recording.names[-2:] == ["run_failed", "run_closed"]
    assert recording.of("run_failed")[0]["exception"] is error
    closed = [name for name in recording.names if name in ("epoch_interrupted", "epoch_finished")]
    assert len(closed) == 1


def test_a_failure_in_the_data_the_model_or_the_metrics_is_told(
    bus: EventBus, tmp_path: Path
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("bad")

    class Broken(Model):
        forward = fail

    cases: list[dict[str, Any]] = [
        {"given": {"data_collator": fail}},
        {"model": Broken(Task().model())},
        {"given": {"compute_metrics": fail}, "eval_strategy": "epoch"},
    ]
    for changes in cases:
        with capture(bus) as recording, pytest.raises(ValueError, match="bad"):
            Parts(bus, tmp_path, **changes).train()
        assert recording.names.count("run_failed") == 1
        assert recording.names[-1] == "run_closed"


def test_a_handler_that_fails_ends_the_training_with_its_own_exception(
    bus: EventBus, tmp_path: Path
) -> None:
    @bus.on("epoch_finished")
    def fail(epoch: int) -> None:
        raise ValueError("no")

    with capture(bus) as recording, pytest.raises(ValueError, match="no"):
        Parts(bus, tmp_path).train()
    assert recording.names[-2:] == ["run_failed", "run_closed"]


def test_an_emitter_that_was_added_later_tells_of_the_run_too(
    bus: EventBus, tmp_path: Path
) -> None:
    parts = Parts(EventBus(), tmp_path)
    parts.trainer.add_callback(huggingface.Emitter(bus))
    with capture(bus) as recording:
        parts.train()
    assert recording.of("epoch_finished")[0]["step"] == 4
    assert recording.names[-1] == "run_closed"


class Interrupting(TrainerCallback):
    """Raises where no callback after it hears of anything."""

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


def test_an_emitter_that_was_added_later_closes_its_run_by_a_with_block_or_the_next_run(
    bus: EventBus, tmp_path: Path
) -> None:
    parts = Parts(EventBus(), tmp_path, given={"callbacks": [Interrupting()]})
    with capture(bus) as recording, pytest.raises(KeyboardInterrupt) as raised:  # noqa: PT012, SIM117 - the block is what is tested
        with huggingface.Emitter(bus) as emitter:
            parts.trainer.add_callback(emitter)
            parts.train()
    assert recording.of("run_failed")[0]["exception"] is raised.value

    other = Parts(EventBus(), tmp_path, given={"callbacks": [Interrupting()]})
    emitter = huggingface.Emitter(bus)
    other.trainer.add_callback(emitter)
    with capture(bus) as recording:
        with pytest.raises(KeyboardInterrupt):
            other.train()
        assert recording.names[-1] == "epoch_started"
        other.trainer.remove_callback(Interrupting)
        other.train()
    assert [name for name in recording.names if name.startswith("run_")] == [
        *("run_opened", "run_started", "run_failed", "run_closed"),
        *("run_opened", "run_started", "run_finished", "run_closed"),
    ]


LEFT_OPEN = """
import sys, tempfile
sys.path.insert(0, {root!r})
from eventbus import EventBus
from eventbus.loops import huggingface
from tests.loops.test_huggingface import Interrupting, Parts
bus = EventBus()
bus.on("run_failed", "run_closed")(lambda event: print("heard", event.name, flush=True))
parts = Parts(EventBus(), tempfile.mkdtemp(), given={{"callbacks": [Interrupting()]}})
parts.trainer.add_callback(huggingface.Emitter(bus))
try:
    parts.train()
except KeyboardInterrupt:
    print("heard", "left", flush=True)
"""


@pytest.mark.slow  # another process imports transformers
def test_a_run_that_was_left_open_is_closed_with_the_process() -> None:
    code = LEFT_OPEN.format(root=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heard = [line for line in done.stdout.splitlines() if line.startswith("heard")]
    assert heard == ["heard left", "heard run_failed", "heard run_closed"]


# -- losses, outputs, targets


def test_the_loss_of_a_step_is_its_mean_also_where_micro_batches_differ_in_size(
    bus: EventBus, tmp_path: Path
) -> None:
    task = Task(batches=3)
    parts = Parts(bus, tmp_path, task=task, gradient_accumulation_steps=2, learning_rate=0.0)
    with capture(bus) as recording:
        parts.train()
    finished = recording.of("batch_finished")
    assert [(one["step"], one["batch_size"]) for one in finished] == [(1, 10), (2, 5)]
    expected = [loss_of(task, 0, 10), loss_of(task, 10, 15)]
    assert [float(one["loss"]) for one in finished] == pytest.approx(expected)
    assert [one["batch_index"] for one in recording.of("batch_loaded")] == [1, 2, 3]


class Summing(nn.Module):
    """Divides by the items of the whole step, as language models of transformers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor, labels: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        scores = self.inner(inputs)
        total = cross_entropy(scores, labels, reduction="sum")
        return total / kwargs.get("num_items_in_batch", len(labels)), scores


def test_a_loss_that_is_divided_by_the_items_of_the_step_is_told_as_its_mean(
    bus: EventBus, tmp_path: Path
) -> None:
    parts = Parts(
        bus,
        tmp_path,
        model=Summing(Task().model()),
        gradient_accumulation_steps=2,
        learning_rate=0.0,
        per_device_train_batch_size=3,
    )
    with capture(bus) as recording:
        parts.train()
    expected = [loss_of(Task(), at, at + 6) for at in range(0, 20, 6)]
    finished = recording.of("batch_finished")
    assert [float(one["loss"]) for one in finished] == pytest.approx(expected)
    assert [one["batch_size"] for one in finished] == [6, 6, 6, 2]
    assert finished[0]["outputs"].shape == (3, CLASSES)


def smoothed(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    return cross_entropy(outputs["logits"], labels, label_smoothing=0.2)


class Doubling(Trainer):
    """Computes the loss in its own way, as so many do."""

    def compute_loss(  # type: ignore[no-untyped-def]  # as in transformers
        self, model, inputs, return_outputs=False, num_items_in_batch=None
    ):
        outputs = model(**inputs)
        loss = 2 * outputs["loss"]
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize(
    "changes",
    [
        {"given": {"compute_loss_func": smoothed}},
        {"label_smoothing_factor": 0.2},
        {"kind": Doubling},
    ],
)
def test_the_loss_is_the_trainers_whoever_computes_it(
    bus: EventBus, tmp_path: Path, changes: dict[str, Any]
) -> None:
    model: Any = Model(Task().model())
    model.config = PreTrainedConfig()  # which label smoothing reads
    changes = {"model": model, "eval_strategy": "epoch", **changes}
    parts = Parts(bus, tmp_path, learning_rate=0.0, **changes)
    with capture(bus) as recording:
        result = parts.train()
    (finished,) = recording.of("epoch_finished")
    assert finished["metrics"]["loss"] == pytest.approx(result.training_loss)
    evaluated = parts.trainer.evaluate()["eval_loss"]
    assert finished["metrics"]["val_loss"] == pytest.approx(evaluated)
    batch = recording.of("batch_finished")[0]
    torch.testing.assert_close(batch["targets"], Task().train_data[:5][1])
    assert batch["outputs"].shape == (5, CLASSES)
    validated = recording.of("validation_batch_finished")[0]
    assert (validated["batch_size"], len(validated["outputs"]), len(validated["targets"])) == (
        8,
        8,
        8,
    )


def test_the_loss_of_bfloat16_is_there_and_finite(bus: EventBus, tmp_path: Path) -> None:
    parts = Parts(bus, tmp_path, bf16=True)
    bus.attach(NonFiniteGuard("skip", watch=["loss", "gradients"]))
    with capture(bus) as recording:
        parts.train()
    assert len(recording.of("batch_finished")) == 4
    assert not recording.of("batch_skipped")


def test_float16_gradients_are_unscaled_once_before_handlers_see_them() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer, scaler = torch.optim.SGD([weight], lr=0.1), torch.amp.GradScaler("cpu", 1024.0)
    trainer: Any = SimpleNamespace(accelerator=SimpleNamespace(scaler=scaler))
    scaler.scale(3.0 * weight.sum()).backward()  # type: ignore[no-untyped-call]  # torch's
    assert weight.grad is not None
    unscale(trainer, optimizer)
    unscale(trainer, optimizer)
    assert weight.grad.tolist() == [3.0]
    scaler.step(optimizer)
    assert weight.item() == pytest.approx(0.7)


# -- answers


def test_a_batch_that_a_handler_makes_is_trained_on(bus: EventBus, tmp_path: Path) -> None:
    @bus.on("batch_loaded")
    def halve(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: part[:2] for key, part in batch.items()}

    with capture(bus) as recording:
        Parts(bus, tmp_path, learning_rate=0.0).train()
    first = recording.of("batch_finished")[0]
    assert first["batch_size"] == 2
    assert float(first["loss"]) == pytest.approx(loss_of(Task(), 0, 2))


def test_a_skipped_batch_moves_neither_weights_nor_moments_nor_the_learning_rate(
    bus: EventBus, tmp_path: Path
) -> None:
    @bus.on("backward_finished")
    def skip(step: int) -> SkipBatch:
        return SkipBatch("all of them")

    parts = Parts(bus, tmp_path, optim="adamw_torch")
    before = parts.weights
    parts.train()
    for now, was in zip(parts.weights, before, strict=True):
        torch.testing.assert_close(now, was, rtol=0, atol=0)
    scheduler: Any = parts.trainer.lr_scheduler
    assert scheduler.last_epoch == 0
    optimizer: Any = parts.trainer.optimizer
    assert not optimizer.optimizer.state


def test_a_stop_epoch_within_a_step_leaves_no_gradients_to_the_next_epoch(
    bus: EventBus, tmp_path: Path
) -> None:
    @bus.on("batch_loaded")
    def stop(epoch: int, batch_index: int) -> StopEpoch | None:
        return StopEpoch("enough") if (epoch, batch_index) == (1, 1) else None

    found: list[bool] = []

    class Look(TrainerCallback):
        def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
            found.append(all(one.grad is None for one in kwargs["model"].parameters()))

    parts = Parts(bus, tmp_path, num_train_epochs=2, gradient_accumulation_steps=2)
    parts.trainer.add_callback(Look())
    with capture(bus) as recording:
        parts.train()
    assert found == [True, True]
    assert [(one["step"], one["complete"]) for one in recording.of("epoch_finished")] == [
        (0, False),
        (2, True),
    ]


def test_after_a_stop_nothing_is_evaluated(bus: EventBus, tmp_path: Path) -> None:
    evaluated = []

    class Look(TrainerCallback):
        def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
            evaluated.append(1)

    @bus.on("batch_finished")
    def stop(step: int) -> Stop | None:
        return Stop("enough") if step == 2 else None

    parts = Parts(bus, tmp_path, eval_strategy="epoch")
    parts.trainer.add_callback(Look())
    with capture(bus) as recording:
        parts.train()
    assert not evaluated
    assert recording.names[-3:] == ["epoch_interrupted", "run_finished", "run_closed"]


def test_a_stop_with_an_exit_code_leaves_the_process_after_the_run_is_closed(
    bus: EventBus, tmp_path: Path
) -> None:
    @bus.on("batch_finished")
    def stop(step: int) -> Stop:
        return Stop("SIGTERM", exit_code=143)

    with capture(bus) as recording, pytest.raises(SystemExit) as left:
        Parts(bus, tmp_path).train()
    assert left.value.code == 143
    assert recording.names[-2:] == ["run_finished", "run_closed"]


def test_early_stopping_ends_a_training(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(EarlyStopping("val_loss", patience=1, min_delta=10.0))
    with capture(bus) as recording:
        Parts(bus, tmp_path, num_train_epochs=9, eval_strategy="epoch").train()
    assert [one["epoch"] for one in recording.of("epoch_finished")] == [1, 2]


def test_an_evaluation_that_a_stop_cannot_end_says_so(
    bus: EventBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.on("validation_batch_finished")
    def stop(step: int) -> Stop:
        return Stop("enough")

    with caplog.at_level(logging.WARNING), capture(bus) as recording:
        Parts(bus, tmp_path, eval_strategy="epoch").train()
    assert "Hugging Face evaluates to the end after a Stop" in caplog.text
    assert len(recording.of("validation_batch_finished")) == 1
    assert recording.names.count("validation_interrupted") == 1


# -- epochs, steps, validations


def test_steps_in_the_place_of_epochs_cut_the_last_one(bus: EventBus, tmp_path: Path) -> None:
    with capture(bus) as recording:
        Parts(bus, tmp_path, max_steps=6).train()
    (started,) = recording.of("run_started")
    assert (started["epochs"], started["steps"]) == (2, 6)
    assert [(one["step"], one["complete"]) for one in recording.of("epoch_finished")] == [
        (4, True),
        (6, False),
    ]


def test_a_part_of_an_epoch_counts_as_one(bus: EventBus, tmp_path: Path) -> None:
    with capture(bus) as recording:
        Parts(bus, tmp_path, num_train_epochs=0.5).train()
    (finished,) = recording.of("epoch_finished")
    assert (finished["epoch"], finished["step"], finished["complete"]) == (1, 2, False)


class Endless(IterableDataset[Any]):
    """Has no length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(Task().train_data)


def test_data_without_a_length_is_trained_on_by_steps(bus: EventBus, tmp_path: Path) -> None:
    with capture(bus) as recording:
        Parts(bus, tmp_path, max_steps=3, given={"train_dataset": Endless()}).train()
    (started,) = recording.of("run_started")
    assert (started["epochs"], started["steps"]) == (None, 3)
    assert recording.of("epoch_finished")[0]["step"] == 3
    assert recording.names[-1] == "run_closed"


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def test_validations_come_within_an_epoch_before_training_and_by_name(
    bus: EventBus, tmp_path: Path
) -> None:
    given = {
        "eval_dataset": {"first": Task().validation_data, "second": Task().train_data},
        "compute_metrics": accuracy,
    }
    changes: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}
    with capture(bus) as recording:
        Parts(bus, tmp_path, given=given, **changes).train()
    told = [
        (one["name"], one["round"], one["epoch"], one["step"])
        for one in recording.of("validation_done")
    ]
    names = ("val_first", "val_second")
    places = [(1, 0, 0), (2, 1, 2), (3, 1, 4)]
    assert told == [(name, *place) for place in places for name in names]
    assert set(recording.of("epoch_finished")[0]["metrics"]) == {
        "loss",
        *("val_first_loss", "val_first_accuracy", "val_second_loss", "val_second_accuracy"),
    }


def test_an_evaluation_within_a_step_leaves_it_whole(bus: EventBus, tmp_path: Path) -> None:
    class Evaluate(TrainerCallback):
        def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
            parts.trainer.evaluate()

    parts = Parts(bus, tmp_path, gradient_accumulation_steps=2, per_device_train_batch_size=5)
    parts.trainer.add_callback(Evaluate())
    with capture(bus) as recording:
        parts.train()
    assert len(recording.of("validation_done")) == 2
    assert [one["batch_size"] for one in recording.of("batch_finished")] == [10, 10]
    assert recording.of("batch_skipped") == []


def test_an_epoch_that_another_callback_ends_within_a_step_is_closed_before_its_evaluation(
    bus: EventBus, tmp_path: Path
) -> None:
    class Leave(TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_epoch_stop = True

    parts = Parts(bus, tmp_path, gradient_accumulation_steps=2, eval_strategy="epoch")
    parts.trainer.add_callback(Leave())
    with capture(bus) as recording:
        parts.train()
    names = [one for one in recording.names if one in ("batch_skipped", "validation_started")]
    assert names == ["batch_skipped", "validation_started"]


def test_an_epoch_ends_after_all_of_its_evaluations(bus: EventBus, tmp_path: Path) -> None:
    given = {"eval_dataset": {"first": Task().validation_data, "second": Task().train_data}}
    with capture(bus) as recording:
        Parts(bus, tmp_path, given=given, eval_strategy="epoch", num_train_epochs=2).train()
    ends = [name for name in recording.names if name in ("validation_done", "epoch_finished")]
    assert ends == ["validation_done", "validation_done", "epoch_finished"] * 2


def test_evaluations_and_predictions_outside_of_validations_say_nothing(
    bus: EventBus, tmp_path: Path
) -> None:
    parts = Parts(bus, tmp_path)

    class Predicting(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            parts.trainer.predict(Task().validation_data)

    parts.trainer.add_callback(Predicting())
    with capture(bus) as recording:
        parts.trainer.evaluate()
        assert recording.names == []
        parts.train()
        before = len(recording.names)
        parts.trainer.evaluate()
    assert len(recording.names) == before
    assert not [name for name in recording.names if name.startswith("validation")]


def test_an_evaluation_without_labels_has_batches_without_a_loss(
    bus: EventBus, tmp_path: Path
) -> None:
    class Unlabelled(Trainer):
        def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
            return DataLoader(Task().validation_data, 8, collate_fn=inputs_only)

    with capture(bus) as recording:
        Parts(bus, tmp_path, kind=Unlabelled, eval_strategy="epoch").train()
    told = recording.of("validation_batch_finished")
    assert [len(one["outputs"]) for one in told] == [8, 6]
    assert "loss" not in told[0].fields
    assert dict(recording.of("validation_done")[0]["metrics"]) == {}


def inputs_only(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {"inputs": collate(samples)["inputs"]}


# -- one emitter, several trainings; several emitters, one training


def test_each_training_is_a_run_of_its_own(bus: EventBus, tmp_path: Path) -> None:
    parts = Parts(bus, tmp_path)
    again = Trainer(parts.model, parts.arguments, **parts.given)
    runs: set[str] = set()
    bus.on("run_opened")(lambda run_id: runs.add(run_id))
    with capture(bus) as recording:
        parts.train()
        parts.train()
        again.train()
        parts.train()
    assert len(runs) == 4
    assert [one["step"] for one in recording.of("batch_finished")] == [1, 2, 3, 4] * 4


def test_two_buses_hear_the_same_training(bus: EventBus, tmp_path: Path) -> None:
    other, folder = EventBus(strict=True), tmp_path / "checkpoint-4"
    counters = StepCounter(), StepCounter()
    for one, counter in zip((bus, other), counters, strict=True):
        one.attach(counter)
    emitters = [huggingface.Emitter(bus), huggingface.Emitter(other)]
    parts = Parts(bus, tmp_path, given={"callbacks": emitters}, save_strategy="epoch")
    with capture(bus) as here, capture(other) as there:
        parts.train()
        parts.train(resume_from_checkpoint=str(folder))
    assert here.names == there.names
    assert here.names.count("batch_finished") == 4
    assert (folder / "eventbus.pt").exists()
    assert (folder / "eventbus-2.pt").exists()
    assert [counter.steps for counter in counters] == [4, 4]


@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_a_copy_of_a_trainer_trains_and_says_nothing(
    bus: EventBus, tmp_path: Path, copied: Callable[[Trainer], Trainer]
) -> None:
    GradientState._reset_state()  # knows the loaders of trainings before, which cannot be pickled
    parts = Parts(bus, tmp_path)
    other = copied(parts.trainer)
    with capture(bus) as recording:
        other.train()
        assert recording.names == []
        parts.train()
    assert recording.names.count("batch_finished") == 4


# -- checkpoints


@pytest.mark.parametrize("restores", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_a_resume_in_the_middle_of_an_epoch_goes_on_as_if_never_left(
    bus: EventBus, tmp_path: Path, moved: bool, restores: bool
) -> None:
    first, second = EventBus(), EventBus()
    counters = {one: StepCounter() for one in (bus, first, second)}
    for one, counter in counters.items():
        one.attach(counter)
    changes: dict[str, Any] = {
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_strategy": "epoch",
        "restore_callback_states_from_checkpoint": restores,
    }
    task = Task(batches=8)
    with capture(bus) as whole:
        straight = Parts(bus, tmp_path / "whole", task=task, **changes)
        straight.train()

    @first.on("batch_finished")
    def stop(step: int) -> Stop | None:
        return Stop("for now") if step == 3 else None

    Parts(first, tmp_path / "cut", task=task, **changes).train()
    path = tmp_path / "cut" / "checkpoint-3"
    if moved:
        path = Path(shutil.move(path, tmp_path / "elsewhere"))
    with capture(second) as recording:
        resumed = Parts(second, tmp_path / "cut", task=task, **changes)
        resumed.train(resume_from_checkpoint=str(path) if moved else True)
    assert recording.of("run_started")[0]["resumed_from"] == str(path)
    assert counters[second].steps == counters[bus].steps == 8
    at = [place for place, event in enumerate(whole.emissions) if event.name == "batch_finished"][
        2
    ] + 1
    begin = recording.names.index("run_started") + 1
    rest = [(event.name, event.fields.get("step")) for event in whole.emissions[at:]]
    assert [(event.name, event.fields.get("step")) for event in recording.emissions[begin:]] == [
        one for one in rest if one[0] != "learning_rate_changed"
    ]
    assert recording.of("batch_loaded")[0]["batch_index"] == 7
    for end in ("epoch_finished", "run_finished"):
        assert recording.of(end)[0]["metrics"] == pytest.approx(dict(whole.of(end)[0]["metrics"]))
    for now, then in zip(resumed.weights, straight.weights, strict=True):
        torch.testing.assert_close(now, then)


def test_a_checkpoint_at_the_last_step_of_an_epoch_is_gone_on_from_with_the_next(
    bus: EventBus, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}
    Parts(EventBus(), tmp_path, **changes).train()
    with capture(bus) as recording:
        Parts(bus, tmp_path, num_train_epochs=2, **changes).train(resume_from_checkpoint=True)
    assert recording.names[2:5] == ["epoch_started", "batch_loaded", "batch_started"]
    assert [(one["epoch"], one["step"]) for one in recording.of("epoch_finished")] == [(2, 8)]


def test_an_epoch_whose_data_is_not_skipped_on_resume_begins_anew(
    bus: EventBus, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    Parts(EventBus(), tmp_path, max_steps=2, **changes).train()
    with capture(bus) as recording:
        Parts(bus, tmp_path, ignore_data_skip=True, **changes).train(resume_from_checkpoint=True)
    assert recording.names[2] == "epoch_started"
    assert recording.of("batch_loaded")[0]["batch_index"] == 1
    assert recording.of("batch_finished")[0]["step"] == 3


def test_a_checkpoint_without_our_part_gives_the_counts_and_says_what_is_missing(
    bus: EventBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Parts(EventBus(), tmp_path, save_strategy="epoch").train()
    (tmp_path / "checkpoint-4" / "eventbus.pt").unlink()
    with caplog.at_level(logging.WARNING), capture(bus) as recording:
        Parts(bus, tmp_path, num_train_epochs=2, save_strategy="epoch").train(
            resume_from_checkpoint=True
        )
    assert "there is no eventbus.pt in" in caplog.text
    assert [(one["epoch"], one["step"]) for one in recording.of("epoch_finished")] == [(2, 8)]


def test_the_best_model_is_loaded_before_the_run_is_over_and_its_checkpoint_is_kept(
    bus: EventBus, tmp_path: Path
) -> None:
    parts = Parts(
        bus,
        tmp_path,
        num_train_epochs=3,
        learning_rate=50.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
    )
    seen: list[list[Tensor]] = []
    bus.on("epoch_finished", "run_finished")(lambda event: seen.append(parts.weights))
    parts.train()
    best = parts.trainer.state.best_model_checkpoint
    assert best is not None
    assert (Path(best) / "eventbus.pt").exists()
    number = int(best.rpartition("-")[2]) // 4 - 1
    for now, then in zip(seen[-1], seen[number], strict=True):
        torch.testing.assert_close(now, then)


@pytest.mark.parametrize("order", ["sequential", "random"])
def test_our_checkpoint_brings_a_trainer_back_to_the_end_of_all_its_epochs(
    bus: EventBus, tmp_path: Path, order: str
) -> None:
    changes: dict[str, Any] = {"num_train_epochs": 3, "optim": "adamw_torch"}
    changes["train_sampling_strategy"] = order
    straight = Parts(EventBus(), tmp_path, **changes)
    straight.train()
    first = EventBus()
    first.attach(Checkpoint(tmp_path / "ours"))
    first.on("epoch_finished", name="ending")(lambda epoch: Stop("for now"))
    Parts(first, tmp_path, **changes).train()
    bus.attach(Checkpoint(tmp_path / "ours", resume="auto"))
    with capture(bus) as recording:
        resumed = Parts(bus, tmp_path, **changes)
        resumed.train()
    assert [(one["epoch"], one["step"]) for one in recording.of("epoch_finished")] == [
        (2, 8),
        (3, 12),
    ]
    for now, then in zip(resumed.weights, straight.weights, strict=True):
        torch.testing.assert_close(now, then)


def test_two_that_resume_are_one_too_many(bus: EventBus, tmp_path: Path) -> None:
    first = EventBus()
    first.attach(Checkpoint(tmp_path / "ours"))
    Parts(first, tmp_path, save_strategy="epoch").train()
    bus.attach(Checkpoint(tmp_path / "ours", resume="auto"))
    with capture(bus) as recording, pytest.raises(RuntimeError, match="let one of them do it"):
        Parts(bus, tmp_path, num_train_epochs=2).train(resume_from_checkpoint=True)
    assert recording.names[-1] == "run_closed"


# -- limits


def test_what_hugging_face_has_no_place_for_is_said_once_to_whom_it_concerns(
    bus: EventBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.on("loader_opened")
    def shuffle(loader: Any) -> Any:
        return loader

    parts = Parts(bus, tmp_path)
    with caplog.at_level(logging.WARNING):
        parts.train()
        parts.train()
    told = [record.message for record in caplog.records if "loader_opened" in record.message]
    assert told == [
        (
            "shuffle: no loader_opened from Hugging Face: "
            "the loader of all epochs is made before the first one"
        )
    ]


def test_an_emitter_outside_of_a_trainer_says_where_it_belongs(bus: EventBus) -> None:
    with pytest.raises(RuntimeError, match=r"for a transformers\.Trainer to call"):
        huggingface.Emitter(bus).on_train_begin(None, None, None)


def test_a_missing_transformers_is_one_clear_line() -> None:
    code = "import sys; sys.modules['transformers'] = None; import eventbus.loops.huggingface"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: eventbus.loops.huggingface needs transformers: "
        "pip install 'training-eventbus[huggingface]'"
    )
