"""Checkpoint: what is saved when, what is kept, what is told."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import pytest
import torch

from eventbus import EventBus, every
from eventbus.handlers import Checkpoint, EarlyStopping
from eventbus.handlers._files import Files
from eventbus.handlers.checkpoint import CheckpointError

from .hand_loop import Training, epochs_in, sequence_of, train

# -- what is kept


def test_last_ones_are_kept(tmp_path: Path) -> None:
    train(tmp_path, keep=2)
    assert epochs_in(tmp_path) == [4, 5]


def test_best_is_kept_besides_the_last(tmp_path: Path) -> None:
    checkpoint = train(tmp_path, keep=2, metrics=sequence_of([3, 1, 4, 5, 6]))
    assert epochs_in(tmp_path) == [2, 4, 5]
    assert checkpoint.best_path == tmp_path / "step-00000020-0002"
    assert checkpoint.last_path == tmp_path / "step-00000050-0005"


def test_best_may_be_the_last(tmp_path: Path) -> None:
    checkpoint = train(tmp_path, keep=1)
    assert epochs_in(tmp_path) == [5]
    assert checkpoint.best_path == checkpoint.last_path


def test_highest_is_best_with_mode_max(tmp_path: Path) -> None:
    train(tmp_path, keep=1, mode="max", metrics=sequence_of([3, 7, 4, 5, 6]))
    assert epochs_in(tmp_path) == [2, 5]


def test_of_equal_ones_the_first_stays_best(tmp_path: Path) -> None:
    train(tmp_path, keep=1, metrics=sequence_of([2, 1, 1, 1, 2]))
    assert epochs_in(tmp_path) == [2, 5]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_never_best(tmp_path: Path, bad: float) -> None:
    train(tmp_path, keep=1, metrics=sequence_of([bad, 5, bad, 6, bad]))
    assert epochs_in(tmp_path) == [2, 5]


def test_emission_without_the_metric_is_no_candidate(tmp_path: Path) -> None:
    train(tmp_path, keep=1, metrics=lambda epoch: {"val_loss": 1.0} if epoch == 2 else {})
    assert epochs_in(tmp_path) == [2, 5]


def test_several_best_are_kept_when_asked(tmp_path: Path) -> None:
    checkpoint = train(tmp_path, keep=1, keep_best=2, metrics=sequence_of([3, 1, 2, 1, 6]))
    assert epochs_in(tmp_path) == [2, 4, 5]
    assert checkpoint.best_path == tmp_path / "step-00000020-0002"


def test_without_best_only_the_last_are_kept(tmp_path: Path) -> None:
    checkpoint = train(tmp_path, keep=1, best=None, metrics=sequence_of([1, 2, 3, 4, 5]))
    assert epochs_in(tmp_path) == [5]
    assert checkpoint.best_path is None


def test_all_are_kept_when_asked(tmp_path: Path) -> None:
    train(tmp_path, keep=None)
    assert epochs_in(tmp_path) == [1, 2, 3, 4, 5]


def test_what_another_run_saved_is_neither_deleted_nor_counted(tmp_path: Path) -> None:
    train(tmp_path, epochs=3, keep=None)
    train(tmp_path, epochs=4, keep=1)
    assert epochs_in(tmp_path) == [1, 2, 3, 4]


def test_run_after_another_on_one_bus_leaves_the_others_alone(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, keep=2, best=None))
    for _ in range(2):
        Training(bus).run(3)
    assert epochs_in(tmp_path) == [2, 3, 2, 3]


def test_two_handlers_in_one_directory_rotate_their_own(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, keep=1, best=None), name="last")
    bus.attach(
        Checkpoint(tmp_path, keep=None, best=None, when=every(2), at_end=False), name="second"
    )
    Training(bus).run(5)
    assert epochs_in(tmp_path) == [2, 4, 5]


# -- when


def test_filter_chooses_when(tmp_path: Path) -> None:
    train(tmp_path, keep=None, when=every(2), at_end=False)
    assert epochs_in(tmp_path) == [2, 4]


@pytest.mark.parametrize("on", ["run_finished", "batch_started", "undeclared", ("a", "b")])
def test_any_signal_may_be_saved_on(tmp_path: Path, on: Any) -> None:
    bus = EventBus()
    checkpoint = Checkpoint(tmp_path, on=on, when=None)
    bus.attach(checkpoint)
    loop = bus.bind(sender="train")
    fields = FIELDS.get(str(on), {})
    loop.emit("b" if isinstance(on, tuple) else on, **fields)
    (saved,) = Checkpoint.saved(tmp_path)
    assert saved.manifest.step == fields.get("step")


FIELDS: dict[str, dict[str, Any]] = {
    "run_finished": {"reason": "completed"},
    "batch_started": {"epoch": 1, "step": 7},
}


def test_checkpoint_holds_the_decision_of_the_same_epoch(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path))
    bus.attach(EarlyStopping("val_loss", on="epoch_finished", patience=9))
    Training(bus).run(2, sequence_of([1.0, 2.0]))
    assert Checkpoint.load(tmp_path)["EarlyStopping"]["count"] == 1


# -- what is told


def test_saved_checkpoint_is_told_when_it_is_there(tmp_path: Path) -> None:
    bus, told = EventBus(), []
    bus.attach(Checkpoint(tmp_path))

    @bus.on("checkpoint_saved")
    def hear(path: str, epoch: int, step: int, metrics: Mapping[str, float]) -> None:
        assert Checkpoint.load(path)["loop"]["epoch"] == epoch
        told.append((Path(path).name, step, metrics["val_loss"]))

    Training(bus).run(2)
    assert told == [("step-00000010-0001", 10, 1.0), ("step-00000020-0002", 20, 0.5)]


def test_manifest_tells_where_and_by_whom(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path))
    metrics: dict[str, Any] = {"val_loss": torch.tensor(0.5), "note": "text", "nan": math.nan}
    Training(bus, run_id="digits-1", run="digits").run(1, lambda epoch: metrics)
    manifest = Checkpoint.saved(tmp_path)[0].manifest
    assert (manifest.epoch, manifest.step) == (1, 10)
    assert (manifest.run_id, manifest.run) == ("digits-1", "digits")
    assert manifest.metrics["val_loss"] == 0.5
    assert math.isnan(manifest.metrics["nan"])
    assert set(manifest.metrics) == {"val_loss", "nan"}
    assert manifest.versions["torch"] == torch.__version__


def test_metric_that_never_came_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, metrics=lambda epoch: {"loss": 1.0})
    (record,) = caplog.records
    assert "never saw its metric 'val_loss'" in record.getMessage()
    assert "keys seen on epoch_finished: 'loss'" in record.getMessage()


def test_run_that_saved_nothing_is_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, epochs=0)
    assert caplog.records == []
    assert list(tmp_path.iterdir()) == []


# -- failures


class FullDisk(Files):
    """A disk on which nothing more can be written."""

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_failed_save_raises_and_leaves_the_previous(tmp_path: Path) -> None:
    # Ignite, MMEngine, verl: with keep=1 the old one was deleted before the new one was there
    bus, told = EventBus(), []
    checkpoint = Checkpoint(tmp_path, keep=1)
    bus.attach(checkpoint)
    bus.on("checkpoint_saved")(lambda path: told.append(path))
    training = Training(bus).run(1)
    checkpoint.files = FullDisk()
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        training.run(2)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.path == str(tmp_path)
    assert epochs_in(tmp_path) == [1]
    assert checkpoint.last_path == tmp_path / "step-00000010-0001"
    assert len(told) == 1


@pytest.mark.parametrize(
    ("extra", "offender"),
    [
        ({"lr": numpy.float64(0.1)}, "extra.lr is a numpy.float64"),
        ({"path": [Path("a")]}, r"extra.path.0 is a pathlib.*Path"),
        ({"f": print}, "extra.f is a builtin_function_or_method"),
    ],
)
def test_state_that_would_not_load_is_refused_by_name(
    tmp_path: Path, extra: Any, offender: str
) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "run"))
    training = Training(bus)
    training.extra = extra
    with pytest.raises(CheckpointError, match=offender):
        training.run(1)
    assert not (tmp_path / "run").exists()


def test_failing_save_lets_the_run_go_on_only_where_that_was_asked(tmp_path: Path) -> None:
    bus, failed = EventBus(), []
    checkpoint = Checkpoint(tmp_path, keep=1)
    bus.attach(checkpoint, on_error="isolate")
    bus.on("handler_failed")(lambda exception: failed.append(str(exception)))
    checkpoint.files = FullDisk()
    training = Training(bus).run(2)
    assert training.epoch == 2
    assert len(failed) == 3  # at its end it tries the last one again
    assert all("No space left on device" in told and str(tmp_path) in told for told in failed)


def test_failing_save_is_not_isolated(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "run"))
    (tmp_path / "run").write_text("a file is in the way")
    told = f"Checkpoint needs the folder {tmp_path / 'run'}, but {tmp_path / 'run'} is a file"
    with pytest.raises(CheckpointError, match=told):
        Training(bus).run(1)


# -- directories and ranks


def test_directory_takes_the_id_and_the_name_of_the_run(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "{run}" / "{run_id}"))
    Training(bus, run="digits", run_id="abc").run(1)
    assert epochs_in(tmp_path / "digits" / "abc") == [1]


@pytest.mark.parametrize("run_id", ["../../up", "..", "a/b", "a\\b", "...", ""])
def test_id_that_would_lead_elsewhere_is_refused_before_the_run(
    tmp_path: Path, run_id: str
) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "runs" / "{run_id}"))
    with pytest.raises(ValueError, match="its run_id must be letters, digits"):
        Training(bus, run_id=run_id).run(0)
    assert list(tmp_path.iterdir()) == []


def test_other_ranks_are_asked_for_state_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    bus, asked = EventBus(), []
    bus.attach(Checkpoint(tmp_path))
    bus.on("state_requested")(lambda: asked.append(1))
    Training(bus).run(2)
    assert len(asked) == 2
    assert list(tmp_path.iterdir()) == []
