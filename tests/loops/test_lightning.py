"""What is special to Lightning: its hooks, its exceptions, its own checkpoints and metrics."""

from __future__ import annotations

import copy
import itertools
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from eventbus import EventBus, SkipBatch, Stop, StopEpoch, handles
from eventbus.handlers import Checkpoint, GradientClipping, NonFiniteGuard
from eventbus.testing import capture

from .trained_by.task import Task

pytest.importorskip("lightning")
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

from eventbus.loops.lightning import Emitter

from .trained_by.lightning import Module, quiet, trainer


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


class Fitting:
    """A module and a trainer for the task, on a bus."""

    def __init__(
        self,
        bus: EventBus,
        folder: Path,
        task: Task | None = None,
        module: Any = None,
        **with_: Any,
    ) -> None:
        self.task = task or Task()
        self.module = module or Module(self.task)
        self.emitter = Emitter(bus)
        others = with_.pop("others", [])
        if any(isinstance(one, ModelCheckpoint) for one in others):
            with_["enable_checkpointing"] = True
        given: dict[str, Any] = {"callbacks": [self.emitter, *others]}
        self.trainer = trainer(bus, self.task, folder, **{**given, **with_})

    def fit(self, ckpt_path: Any = None, validation: Any = None) -> None:
        loader = validation or (self.task.validation_loader if self.task.validates else None)
        self.trainer.fit(self.module, self.task.train_loader, loader, ckpt_path=ckpt_path)


class Raising(Callback):
    """Raises in the third step."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == 2:
            raise self.error


class Counting(Module):
    """Counts what it computes."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.forwards: list[str] = []

    def loss(self, batch: list[Tensor]) -> Tensor:
        self.forwards.append("training" if self.training else "validation")
        return super().loss(batch)


class Counter:
    """Counts steps, as state."""

    def __init__(self) -> None:
        self.steps = 0

    @handles("batch_finished")
    def count(self) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def steps_of(recording: Any) -> list[tuple[int, int]]:
    return [(one["epoch"], one["step"]) for one in recording.of("batch_finished")]


def test_nobody_reads_what_a_module_logs_for_the_progress_bar(
    bus: EventBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Logging(Module):
        def training_step(self, batch: list[Tensor], *_: Any) -> Tensor:
            loss = self.loss(batch)
            self.log("train_loss", loss, prog_bar=True)
            return loss

    read: list[int] = []
    item = Tensor.item

    def counted(tensor: Tensor) -> Any:
        read.append(1)
        return item(tensor)

    monkeypatch.setattr(Tensor, "item", counted)
    plain = trainer(bus, Task(), tmp_path, callbacks=[])
    plain.fit(Logging(Task()), Task().train_loader, Task().validation_loader)
    without, read[:] = len(read), []
    with capture(bus, "batch_finished") as recording:
        fitting = Fitting(bus, tmp_path, module=Logging(Task()))
        fitting.fit()
    assert len(read) - without <= Task().epochs  # at the end of each, and not at its steps
    assert "train_loss" in recording.of("batch_finished")[0]["metrics"]


# -- failures and ends


@pytest.mark.parametrize("error", [ValueError("bad data"), SystemExit(3)])
def test_a_failure_closes_everything_once_and_stays_what_it_was(
    bus: EventBus, tmp_path: Path, error: BaseException
) -> None:
    fitting = Fitting(bus, tmp_path, others=[Raising(error)])
    with capture(bus) as recording, pytest.raises(type(error)) as raised:
        fitting.fit()
    assert raised.value is error
    ends = ["batch_skipped", "epoch_interrupted", "run_failed", "run_closed"]
    assert recording.names[-4:] == ends
    assert recording.of("run_failed")[0]["exception"] is error
    assert "training_step" not in vars(fitting.trainer.strategy)


def test_ctrl_c_fails_the_run_and_lightning_makes_an_exit_of_it(
    bus: EventBus, tmp_path: Path
) -> None:
    fitting = Fitting(bus, tmp_path, others=[Raising(KeyboardInterrupt())])
    before = signal.getsignal(signal.SIGINT)
    try:
        with capture(bus) as recording, pytest.raises(SystemExit):
            fitting.fit()
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(recording.of("run_failed")[0]["exception"], KeyboardInterrupt)
    assert recording.names.count("run_closed") == 1


def test_a_handler_that_raises_fails_the_run(bus: EventBus, tmp_path: Path) -> None:
    @bus.on("batch_finished")
    def fail(step: int) -> None:
        raise ValueError("no")

    with capture(bus) as recording, pytest.raises(ValueError, match="no"):
        Fitting(bus, tmp_path).fit()
    assert recording.names[-2:] == ["run_failed", "run_closed"]


def test_a_stop_with_an_exit_code_leaves_after_all_else_is_closed(
    bus: EventBus, tmp_path: Path
) -> None:
    class Late(Callback):
        ended = False

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.ended = True

    @bus.on("batch_finished")
    def leave(step: int) -> Stop:
        return Stop("SIGTERM", exit_code=143)

    late = Late()
    with capture(bus) as recording, pytest.raises(SystemExit) as raised:
        Fitting(bus, tmp_path, others=[late]).fit()
    assert raised.value.code == 143
    assert late.ended
    assert recording.names[-2:] == ["run_finished", "run_closed"]


def test_a_second_fit_is_a_second_run_that_counts_on(bus: EventBus, tmp_path: Path) -> None:
    fitting = Fitting(bus, tmp_path, Task(epochs=1, batches=2))
    fitting.fit()
    fitting.trainer.fit_loop.max_epochs = 2
    with capture(bus) as recording:
        fitting.fit()
    assert recording.names.count("run_opened") == recording.names.count("run_closed") == 1
    assert steps_of(recording) == [(2, 3), (2, 4)]


def test_one_emitter_serves_one_trainer_after_another(bus: EventBus, tmp_path: Path) -> None:
    emitter = Emitter(bus)
    for _ in range(2):
        fitting = Fitting(bus, tmp_path, Task(epochs=1, batches=2), callbacks=[emitter])
        with capture(bus) as recording:
            fitting.fit()
        assert steps_of(recording) == [(1, 1), (1, 2)]


def test_validating_alone_and_the_sanity_check_say_nothing(bus: EventBus, tmp_path: Path) -> None:
    fitting = Fitting(bus, tmp_path, Task(epochs=1), num_sanity_val_steps=2)
    with capture(bus) as recording:
        fitting.trainer.validate(fitting.module, fitting.task.validation_loader, verbose=False)
    assert recording.names == []
    with capture(bus) as recording:
        fitting.fit()
    assert recording.names.count("validation_started") == 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_an_emitter_is_inert(bus: EventBus, tmp_path: Path, again: Any) -> None:
    fitting = Fitting(bus, tmp_path, Task(epochs=1, batches=1))
    copies: list[Emitter] = []

    @bus.on("batch_finished")
    def copy_it(step: int) -> None:
        copies.append(again(fitting.emitter))

    fitting.fit()
    with capture(bus) as recording:
        Fitting(bus, tmp_path, Task(epochs=1, batches=1), callbacks=copies).fit()
    assert recording.names == []


# -- answers


def test_a_batch_is_replaced_before_the_forward(bus: EventBus, tmp_path: Path) -> None:
    @bus.on("batch_loaded", when=lambda step: step == 1)
    def blank(batch: list[Tensor]) -> list[Tensor]:
        return [torch.full_like(batch[0], torch.nan), batch[1]]

    with capture(bus) as recording:
        Fitting(bus, tmp_path, Task(epochs=1, batches=1)).fit()
    assert torch.isnan(recording.of("batch_finished")[0]["loss"])


def test_a_batch_skipped_before_its_forward_costs_none(bus: EventBus, tmp_path: Path) -> None:
    bus.on("batch_loaded", when=lambda batch_index: batch_index == 2, name="skip")(
        lambda: SkipBatch("odd")
    )
    task = Task(epochs=1)
    module = Counting(task)
    Fitting(bus, tmp_path, task, module=module).fit()
    assert module.forwards.count("training") == 3


def test_a_loss_scaler_steps_without_the_micro_batch_that_is_skipped(
    bus: EventBus, tmp_path: Path
) -> None:
    task = Task(epochs=1, accumulate=2)
    module = Counting(task)
    weights = [[one.detach().clone() for one in module.parameters()]]
    bus.on("batch_loaded", when=lambda batch_index: batch_index == 2, name="skip")(
        lambda: SkipBatch("odd")
    )
    bus.on("batch_finished", name="keep")(
        lambda: weights.append([one.detach().clone() for one in module.parameters()])
    )
    scaling = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with capture(bus) as recording:
        Fitting(bus, tmp_path, task, module=module, plugins=[scaling]).fit()
    assert [one["batch_size"] for one in recording.of("batch_finished")] == [5, 10]
    for before, after in itertools.pairwise(weights):
        assert not any(one.equal(other) for one, other in zip(before, after, strict=True))


def test_what_is_not_finite_moves_nothing(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(NonFiniteGuard(watch="gradients", action="skip"))
    bus.on("batch_loaded", when=lambda step: step == 2, name="spoil")(
        lambda batch: [batch[0] * torch.inf, batch[1]]
    )
    fitting = Fitting(bus, tmp_path, Task(epochs=1))
    with capture(bus) as recording:
        fitting.fit()
    assert recording.names.count("batch_skipped") == 3
    assert all(torch.isfinite(one).all() for one in fitting.module.parameters())


def test_a_stop_is_kept_where_lightning_must_go_on(
    bus: EventBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("batch_finished", name="stop")(lambda: Stop("enough"))
    fitting = Fitting(bus, tmp_path, Task(epochs=3), min_epochs=3)
    with capture(bus) as recording:
        fitting.fit()
    assert steps_of(recording) == [(1, 1)]
    assert recording.of("run_finished")[0]["reason"] == "enough"
    assert "Lightning goes on after a Stop" in caplog.text


def test_after_a_stop_lightning_validates_no_more(bus: EventBus, tmp_path: Path) -> None:
    bus.on("batch_finished", name="stop")(lambda: Stop("enough"))
    module = Counting(Task())
    Fitting(bus, tmp_path, module=module, num_sanity_val_steps=0).fit()
    assert module.forwards == ["training"]


def test_an_epoch_cut_short_steps_its_schedulers_and_leaves_should_stop_to_others(
    bus: EventBus, tmp_path: Path
) -> None:
    class Scheduled(Module):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            halve = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
            return [optimizer], [halve, {"scheduler": plateau, "monitor": "val_loss"}]

    rates: list[float] = []

    @bus.on("batch_finished")
    def cut(step: int, optimizer: Any) -> StopEpoch:
        rates.append(optimizer.param_groups[0]["lr"])
        return StopEpoch("short")

    module = Scheduled(Task(epochs=3))
    with capture(bus) as recording:
        Fitting(bus, tmp_path, Task(epochs=3), module=module).fit()
    assert rates == [0.1, 0.05, 0.025]
    assert recording.names.count("validation_done") == 3
    assert [one["complete"] for one in recording.of("epoch_finished")] == [False] * 3


def test_gradients_are_clipped_whole_and_before_lightning_clips(
    bus: EventBus, tmp_path: Path
) -> None:
    bus.attach(GradientClipping(1e-4))
    fitting = Fitting(bus, tmp_path, Task(epochs=1, batches=1), gradient_clip_val=1e-6)
    with capture(bus) as recording:
        fitting.fit()
    norm = recording.of("metrics_measured")[0]["metrics"]["gradient_norm"]
    assert norm > 1e-2


# -- counts, losses, metrics


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_accumulation_with_a_remainder_tells_whole_losses(
    bus: EventBus, tmp_path: Path, precision: str
) -> None:
    fitting = Fitting(bus, tmp_path, Task(epochs=1, batches=5, accumulate=2), precision=precision)
    batches = list(fitting.task.train_loader)[:2]
    with torch.no_grad():
        expected = [float(fitting.module.training_step(one)) for one in batches]
    with capture(bus) as recording:
        fitting.fit()
    finished = recording.of("batch_finished")
    assert [one["batch_index"] for one in recording.of("batch_loaded")] == [1, 2, 3, 4, 5]
    assert [one["batch_size"] for one in finished] == [10, 10, 5]
    assert float(finished[0]["loss"]) == pytest.approx(sum(expected) / 2, rel=0.02)
    told = float(recording.of("backward_finished")[0]["loss"])
    assert told == pytest.approx(expected[1], rel=0.02)


def test_what_the_module_logs_is_told_once_under_the_keys_it_has(
    bus: EventBus, tmp_path: Path
) -> None:
    class Logging(Module):
        def training_step(self, batch: list[Tensor]) -> Any:
            loss = self.loss(batch)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            self.log("half", loss / 2, on_step=False, on_epoch=True)
            return {"loss": loss, "outputs": batch[0], "batch_size": loss}

        def validation_step(self, batch: list[Tensor]) -> None:
            self.log("valid/loss", self.loss(batch), on_step=True, on_epoch=True)
            self.log("accuracy", 0.5)

    with capture(bus) as recording:
        Fitting(bus, tmp_path, module=Logging(Task())).fit()
    step, epoch = recording.of("batch_finished")[-1], recording.of("epoch_finished")[-1]
    assert set(step["metrics"]) == {"loss", "train_loss"}
    assert step["outputs"].shape == (5, 4)
    assert set(recording.of("validation_done")[-1]["metrics"]) == {"val_loss", "val_accuracy"}
    names = {"loss", "train_loss", "half", "val_loss", "val_accuracy"}
    assert set(epoch["metrics"]) == names
    assert epoch["metrics"]["half"] == pytest.approx(epoch["metrics"]["loss"] / 2)


def test_each_of_several_validation_loaders_has_its_own_name(bus: EventBus, tmp_path: Path) -> None:
    task = Task(epochs=1)
    fitting = Fitting(bus, tmp_path, task, module=Several())
    with capture(bus) as recording:
        fitting.fit(validation=[task.validation_loader, task.validation_loader])
    done = recording.of("validation_done")
    assert [(one["name"], one["round"]) for one in done] == [("val", 1), ("val_1", 1)]
    first, second = done[0]["metrics"]["val_loss"], done[1]["metrics"]["val_1_loss"]
    assert second == pytest.approx(first + 1)
    metrics = recording.of("epoch_finished")[0]["metrics"]
    assert set(metrics) == {"loss", "val_loss", "val_1_loss", "val_mean"}


def test_validations_within_an_epoch_leave_a_step_under_way_whole(
    bus: EventBus, tmp_path: Path
) -> None:
    task = Task(epochs=1, accumulate=2)
    with capture(bus) as recording:
        Fitting(bus, tmp_path, task, val_check_interval=1).fit()
    assert [one["step"] for one in recording.of("validation_done")] == [1, 1, 2, 2]
    assert [one["batch_size"] for one in recording.of("batch_finished")] == [10, 10]
    assert recording.of("batch_skipped") == []


def test_limits_of_batches_and_steps_are_told(bus: EventBus, tmp_path: Path) -> None:
    with capture(bus) as recording:
        Fitting(bus, tmp_path, max_epochs=-1, max_steps=5, limit_train_batches=3).fit()
    started = recording.of("run_started")[0]
    assert (started["epochs"], started["steps"]) == (None, 5)
    assert [one["complete"] for one in recording.of("epoch_finished")] == [True, False]
    assert steps_of(recording) == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5)]


class Several(LightningModule):
    """Validates on several loaders, and logs for each and for all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: list[Tensor]) -> Any:
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).square().mean() + dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        self.log("val_mean", 3.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Pair(LightningModule):
    """Two networks and two optimizers, stepped by hand."""

    def __init__(self, *, past_lightning: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.past_lightning = past_lightning
        self.first, self.second = nn.Linear(4, 1), nn.Linear(4, 1)

    def training_step(self, batch: list[Tensor]) -> None:
        optimizers: Any = self.optimizers(use_pl_optimizer=not self.past_lightning)
        for optimizer, network in zip(optimizers, (self.first, self.second), strict=True):
            loss = network(batch[0]).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(one.parameters(), 0.1) for one in (self.first, self.second)]


@pytest.mark.parametrize("past_lightning", [False, True])
def test_two_optimizers_stepped_by_hand_are_one_step_of_the_run(
    bus: EventBus, tmp_path: Path, past_lightning: bool
) -> None:
    module = Pair(past_lightning=past_lightning)
    weights: list[list[Tensor]] = []

    @bus.on("backward_finished", when=lambda step: step == 2)
    def skip(optimizers: Any) -> SkipBatch:
        assert list(optimizers) == ["0", "1"]
        weights.append([one.detach().clone() for one in module.parameters()])
        return SkipBatch("odd")

    with capture(bus) as recording:
        Fitting(bus, tmp_path, Task(epochs=1, validates=False), module=module).fit()
    told = [
        name for name in recording.names if name.startswith(("backward", "batch_f", "batch_sk"))
    ]
    assert told == [
        *("backward_finished", "batch_finished"),
        *("backward_finished", "batch_skipped") * 3,
    ]
    after = list(module.parameters())
    assert all(one.equal(other) for one, other in zip(weights[0], after, strict=True))
    assert recording.of("backward_finished")[0]["loss"] > 0


def test_one_batch_alone_is_skipped_of_a_module_that_steps_by_hand(
    bus: EventBus, tmp_path: Path
) -> None:
    bus.on("batch_loaded", when=lambda batch_index: batch_index == 2, name="skip")(
        lambda: SkipBatch("odd")
    )
    with capture(bus) as recording:
        Fitting(bus, tmp_path, Task(epochs=1, validates=False), module=Pair()).fit()
    told = [name for name in recording.names if name in ("batch_finished", "batch_skipped")]
    assert told == ["batch_finished", "batch_skipped", "batch_finished", "batch_finished"]


# -- state


class Saving(Callback):
    """Saves after each batch."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_checkpoint_that_a_callback_listed_before_saves_too_early_is_told_of_once(
    bus: EventBus, tmp_path: Path, caplog: pytest.LogCaptureFixture, is_first: bool
) -> None:
    saving, emitter = Saving(tmp_path / "each.ckpt"), Emitter(bus)
    callbacks = [saving, emitter] if is_first else [emitter, saving]
    task = Task(epochs=1)
    with quiet():
        training = trainer(bus, task, tmp_path, callbacks=callbacks)
        training.fit(Module(task), task.train_loader, task.validation_loader)
    told = "list the Emitter before the callback that saves"
    assert caplog.text.count(told) == is_first
    saved = torch.load(saving.file, weights_only=True)["callbacks"]["eventbus.train"]
    assert saved["loop"]["step"] == (3 if is_first else 4)


def test_what_one_loop_cannot_do_is_said_by_name(
    bus: EventBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus.on("loader_opened", name="curriculum")(lambda loader: None)
    Fitting(bus, tmp_path, Task(epochs=1, batches=1)).fit()
    assert "curriculum: no loader_opened from Lightning" in caplog.text


EPOCH_ENDS: dict[str, dict[str, Any]] = {
    "at the end of an epoch": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    "at the end of a validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    "after some steps": {"every_n_train_steps": 3},
    "after the last step of an epoch": {"every_n_train_steps": 4},
}


@pytest.mark.parametrize("when", EPOCH_ENDS)
def test_no_epoch_and_no_step_is_told_twice_after_a_resume(
    bus: EventBus, tmp_path: Path, when: str
) -> None:
    saving = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}", **EPOCH_ENDS[when])
    counter = Counter()
    bus.attach(counter)
    with capture(bus) as whole:
        Fitting(bus, tmp_path, Task(epochs=2), others=[saving]).fit()
    path = min(tmp_path.glob("*.ckpt"), key=lambda one: int(one.stem.partition("=")[2]))
    steps = int(path.stem.partition("=")[2])
    second, counted = EventBus(strict=True), Counter()
    second.attach(counted, name="Counter")
    with capture(second) as resumed:
        Fitting(second, tmp_path, Task(epochs=2)).fit(ckpt_path=path)
    assert resumed.of("run_started")[0]["resumed_from"] == str(path)
    assert steps_of(resumed) == steps_of(whole)[steps:]
    assert counted.steps == counter.steps == 8
    done = [one["epoch"] for one in resumed.of("epoch_finished")]
    assert done == ([2] if when == "at the end of an epoch" else [1, 2])
    if when != "after some steps":  # a DataLoader does not go on within its data
        ours, theirs = (one.of("epoch_finished")[-1]["metrics"] for one in (whole, resumed))
        assert dict(ours) == pytest.approx(dict(theirs))


def test_a_checkpoint_saved_after_the_fit_carries_the_state_too(
    bus: EventBus, tmp_path: Path
) -> None:
    bus.attach(Counter())
    fitting = Fitting(bus, tmp_path, Task(epochs=1))
    fitting.fit()
    fitting.trainer.save_checkpoint(tmp_path / "last.ckpt")
    second, counted = EventBus(), Counter()
    second.attach(counted)
    with capture(second) as recording:
        Fitting(second, tmp_path, Task(epochs=2)).fit(ckpt_path=tmp_path / "last.ckpt")
    assert steps_of(recording) == [(2, 5), (2, 6), (2, 7), (2, 8)]
    assert counted.steps == 8


def test_a_checkpoint_made_without_the_bus_gives_the_counts(bus: EventBus, tmp_path: Path) -> None:
    alone = Fitting(bus, tmp_path, Task(epochs=1), callbacks=[])
    alone.fit()
    alone.trainer.save_checkpoint(tmp_path / "last.ckpt")
    with capture(bus) as recording:
        Fitting(bus, tmp_path, Task(epochs=2)).fit(ckpt_path=tmp_path / "last.ckpt")
    assert steps_of(recording) == [(2, 5), (2, 6), (2, 7), (2, 8)]


def test_our_checkpoint_resumes_to_the_same_weights_and_lightning_counts_on(
    tmp_path: Path,
) -> None:
    def fit(epochs: int, folder: Path) -> tuple[Trainer, Module]:
        bus, task = EventBus(strict=True), Task(epochs=epochs)
        bus.attach(Checkpoint(folder, resume="auto"))
        torch.manual_seed(0)
        fitting = Fitting(bus, tmp_path, task)
        shuffled = DataLoader(task.train_data, batch_size=5, shuffle=True)
        fitting.trainer.fit(fitting.module, shuffled, task.validation_loader)
        return fitting.trainer, fitting.module

    _, straight = fit(3, tmp_path / "whole")
    fit(1, tmp_path / "parts")
    trainer, resumed = fit(3, tmp_path / "parts")
    assert (trainer.current_epoch, trainer.global_step) == (3, 12)
    for one, other in zip(resumed.parameters(), straight.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_run_whose_epochs_are_done_trains_no_further(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(Checkpoint(tmp_path / "ours", resume="auto"))
    Fitting(bus, tmp_path, Task(epochs=1)).fit()
    second = EventBus(strict=True)
    second.attach(Checkpoint(tmp_path / "ours", resume="auto"))
    with capture(second) as recording:
        Fitting(second, tmp_path, Task(epochs=1)).fit()
    assert recording.names == ["run_opened", "run_started", "run_finished", "run_closed"]


def test_two_that_resume_are_an_error_that_says_so(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(Checkpoint(tmp_path / "ours", resume="auto"))
    fitting = Fitting(bus, tmp_path, Task(epochs=1))
    fitting.fit()
    fitting.trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = EventBus()
    second.attach(Checkpoint(tmp_path / "ours", resume="auto"))
    with pytest.raises(RuntimeError, match="let one of them do it"):
        Fitting(second, tmp_path, Task(epochs=2)).fit(ckpt_path=tmp_path / "last.ckpt")


def test_a_missing_lightning_is_one_line_that_names_the_extra() -> None:
    code = "import sys; sys.modules['lightning'] = None; import eventbus.loops.lightning"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "pip install 'training-eventbus[lightning]'" in result.stderr.splitlines()[-1]
