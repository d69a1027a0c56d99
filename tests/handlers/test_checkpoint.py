"""Checkpoint: what is saved when, what is kept, and what a run goes on from."""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus import Emitter, EventBus, EventBusError, RestoredState, State, every
from eventbus.handlers import Checkpoint, EarlyStopping
from eventbus.handlers._files import Files
from eventbus.handlers.checkpoint import CheckpointError, SavedCheckpoint


class Killed(BaseException):
    """The process is gone."""


class Training:
    """A loop by hand: its weight is a known function of what it has done."""

    def __init__(self, bus: EventBus, **context: Any) -> None:
        self.bus = bus
        self.weight = torch.zeros(3)
        self.epoch = 0
        self.extra: Any = None
        self.resumed_from: str | None = None
        self.loop: Emitter = bus.bind(sender=context.pop("sender", "train"), **context)

    def give(self) -> list[State]:
        parts = [State("model", {"weight": self.weight}), State("loop", {"epoch": self.epoch})]
        return parts if self.extra is None else [*parts, State("extra", self.extra)]

    def take(self, state: RestoredState) -> None:
        if "model" in state:
            self.weight = state.take("model")["weight"].clone()
            self.epoch = state.take("loop")["epoch"]

    def run(
        self,
        epochs: int,
        metrics: Callable[[int], Mapping[str, float]] = lambda epoch: {"val_loss": 1 / epoch},
        fail_after: int | None = None,
    ) -> Training:
        """Train; `fail_after` that epoch the run fails. Closed as a loop closes it."""
        given_, taken = self.give, self.take
        self.bus.on("state_requested", name="loop")(given_)
        self.bus.on("state_restored", name="loop")(taken)
        outcome = "failed"
        try:
            self._open(epochs)
            self._train(epochs, metrics, fail_after)
            outcome = "completed"
        except Killed:
            pass
        finally:
            self.loop.emit("run_closed", outcome=outcome)
            self.bus.detach(given_)
            self.bus.detach(taken)
        return self

    def _open(self, epochs: int) -> None:
        restored = self.loop.emit("run_opened").restored
        fields = {} if restored is None else {"resumed_from": restored.path}
        self.resumed_from = fields.get("resumed_from")
        self.loop.emit("run_started", epochs=epochs, **fields)

    def _train(
        self, epochs: int, metrics: Callable[[int], Mapping[str, float]], fail_after: int | None
    ) -> None:
        while self.epoch < epochs:
            self.epoch += 1
            self.weight = self.weight * 1.5 + self.epoch
            self.loop.emit(
                "epoch_finished",
                epoch=self.epoch,
                step=10 * self.epoch,
                metrics=metrics(self.epoch),
            )
            if self.epoch == fail_after:
                raise Killed
        self.loop.emit("run_finished", reason="completed", epoch=self.epoch, step=10 * self.epoch)


def train(directory: Path, epochs: int = 5, **arguments: Any) -> Checkpoint:
    """Run one fresh training with a checkpoint handler; return the handler."""
    metrics = arguments.pop("metrics", lambda epoch: {"val_loss": 1 / epoch})
    checkpoint = Checkpoint(directory, **arguments)
    bus = EventBus()
    bus.attach(checkpoint)
    Training(bus).run(epochs, metrics)
    return checkpoint


def epochs_in(directory: Path) -> list[int]:
    return [saved.manifest.epoch or 0 for saved in Checkpoint.saved(directory)]


def sequence_of(values: Sequence[float]) -> Callable[[int], Mapping[str, float]]:
    return lambda epoch: {"val_loss": values[epoch - 1]}


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
    bus.attach(Checkpoint(tmp_path, keep=None, best=None, when=every(2)), name="every second")
    Training(bus).run(5)
    assert epochs_in(tmp_path) == [2, 4, 5]


@settings(max_examples=30, deadline=None)
@given(
    keep=st.integers(1, 3),
    lives=st.lists(
        st.tuples(
            st.lists(st.sampled_from([1.0, 2.0, 3.0, math.nan]), min_size=1, max_size=4),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_rotation_keeps_the_last_and_the_best_over_resumes_and_failures(
    tmp_path_factory: pytest.TempPathFactory,
    keep: int,
    lives: list[tuple[list[float], bool]],
) -> None:
    """Against a list: each life of the run saves some epochs; the disk may be full at its end."""
    directory = tmp_path_factory.mktemp("run")
    values: list[float] = []
    for life, disk_is_full in lives:
        checkpoint = Checkpoint(directory, keep=keep, resume="auto")
        bus = EventBus()
        bus.attach(checkpoint)
        training = Training(bus)
        values = values + life
        training.run(len(values), sequence_of(values), fail_after=len(values))
        if disk_is_full:
            checkpoint.files = FullDisk()
            with pytest.raises(CheckpointError):
                training.loop.emit("epoch_finished", epoch=99, step=990, metrics={"val_loss": 0.0})
        finite = [value for value in values if math.isfinite(value)]
        best = {values.index(min(finite)) + 1} if finite else set()
        last = set(range(1, len(values) + 1)[-keep:])
        assert set(epochs_in(directory)) == best | last
        assert Checkpoint.load(directory)["loop"]["epoch"] == len(values)


# -- when


def test_filter_chooses_when(tmp_path: Path) -> None:
    train(tmp_path, keep=None, when=every(2))
    assert epochs_in(tmp_path) == [2, 4]


@pytest.mark.parametrize("on", ["run_finished", "batch_started", "undeclared", ("a", "b")])
def test_any_signal_may_be_saved_on(tmp_path: Path, on: Any) -> None:
    bus = EventBus()
    checkpoint = Checkpoint(tmp_path, on=on, when=None)
    bus.attach(checkpoint)
    loop = bus.bind(sender="train")
    fields: dict[str, Any] = {"run_finished": {"reason": "completed"}, "batch_started": PLACE}.get(
        str(on), {}
    )
    loop.emit("b" if isinstance(on, tuple) else on, **fields)
    (saved,) = Checkpoint.saved(tmp_path)
    assert saved.manifest.step == fields.get("step")


PLACE = {"epoch": 1, "step": 7}


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
    assert "keys seen: 'loss'" in record.getMessage()


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


def test_failing_save_is_not_isolated(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file is in the way")
    with pytest.raises(CheckpointError, match="Not a directory"):
        train(tmp_path / "run")


# -- resuming


def killed_and_resumed(directory: Path, cuts: Sequence[int], epochs: int) -> Training:
    training = None
    for cut in (*cuts, None):
        bus = EventBus()
        bus.attach(Checkpoint(directory, resume="auto", keep=2))
        training = Training(bus).run(epochs, fail_after=cut)
    assert training is not None
    return training


@pytest.mark.parametrize("cuts", [[1], [3], [6], [1, 2], [2, 2, 4], [1, 2, 3, 4, 5, 6]])
def test_run_killed_and_resumed_ends_where_one_that_was_not(
    tmp_path: Path, cuts: list[int]
) -> None:
    whole = Training(EventBus()).run(6)
    resumed = killed_and_resumed(tmp_path, cuts, 6)
    assert torch.equal(resumed.weight, whole.weight)
    assert resumed.resumed_from is not None
    assert epochs_in(tmp_path) == [5, 6]


def test_run_goes_on_from_nothing_unless_told(tmp_path: Path) -> None:
    train(tmp_path, epochs=3)
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path))
    assert Training(bus).run(4).resumed_from is None


def test_empty_directory_starts_afresh(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "none", resume="auto"))
    assert Training(bus).run(1).resumed_from is None


def test_run_may_go_on_from_a_given_checkpoint(tmp_path: Path) -> None:
    train(tmp_path / "old", keep=None)
    path = tmp_path / "old" / "step-00000020-0002"
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "new", keep=None, resume=path))
    training = Training(bus).run(4)
    assert training.resumed_from == str(path)
    assert epochs_in(tmp_path / "new") == [3, 4]
    assert epochs_in(tmp_path / "old") == [1, 2, 3, 4, 5]


def test_run_may_go_on_from_the_newest_in_a_given_directory(tmp_path: Path) -> None:
    train(tmp_path / "old", keep=None)
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "new", resume=str(tmp_path / "old")))
    assert Training(bus).run(6).resumed_from == str(tmp_path / "old" / "step-00000050-0005")


def test_given_checkpoint_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume=tmp_path / "gone"))
    with pytest.raises(CheckpointError, match="no checkpoint that can be used"):
        Training(bus).run(1)


def test_given_checkpoint_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    train(tmp_path, keep=None)
    path = tmp_path / "step-00000020-0002"
    (path / "state.pt").write_bytes(b"")
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume=path))
    with pytest.raises(CheckpointError, match="cannot be used"):
        Training(bus).run(1)


def damage(saved: SavedCheckpoint) -> None:
    with (saved.path / "state.pt").open("r+b") as file:
        file.seek(saved.manifest.files["state.pt"].bytes // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def test_damaged_newest_is_passed_over_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, keep=None)
    for saved in Checkpoint.saved(tmp_path)[-2:]:
        damage(saved)
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto", keep=None))
    training = Training(bus).run(6)
    assert training.resumed_from == str(tmp_path / "step-00000030-0003")
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [name in text for name, text in zip(["0005", "0004"], warnings, strict=True)] == [
        True,
        True,
    ]
    assert torch.equal(training.weight, Training(EventBus()).run(6).weight)


def test_damaged_checkpoint_is_never_deleted(tmp_path: Path) -> None:
    train(tmp_path, epochs=3, keep=None)
    damaged = Checkpoint.saved(tmp_path)[-1]
    damage(damaged)
    killed_and_resumed(tmp_path, [], 8)
    assert damaged.path.is_dir()
    assert epochs_in(tmp_path) == [3, 7, 8]


def test_run_starts_afresh_and_says_so_where_all_are_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, epochs=1)
    damage(Checkpoint.saved(tmp_path)[0])
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    assert Training(bus).run(1).resumed_from is None
    assert "starts afresh" in caplog.text


def test_completed_run_is_not_gone_on_from_by_the_next_on_the_bus(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    Training(bus).run(3)
    assert Training(bus).run(3).resumed_from is None


def test_failed_run_is_gone_on_from_by_the_next_on_the_bus(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    Training(bus).run(3, fail_after=2)
    assert Training(bus).run(3).resumed_from == str(tmp_path / "step-00000020-0002")


def test_run_opened_again_under_its_own_id_goes_on(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    Training(bus, run_id="digits").run(3)
    assert Training(bus, run_id="digits").run(4).resumed_from is not None


def test_run_of_another_name_is_not_gone_on_from(tmp_path: Path) -> None:
    for name in ("fold-1", "fold-2"):
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, resume="auto"))
        assert Training(bus, run=name).run(2).resumed_from is None


def test_run_without_a_name_goes_on_from_one_without(tmp_path: Path) -> None:
    resumed = []
    for _ in range(2):
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, resume="auto"))
        resumed.append(Training(bus, sender=None).run(2).resumed_from)
    assert resumed == [None, str(tmp_path / "step-00000020-0002")]


def test_folds_that_are_killed_go_on_each_from_its_own(tmp_path: Path) -> None:
    resumed = []
    for cut in (1, None):
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path / "{run}", resume="auto"))
        for fold in ("fold-1", "fold-2"):
            training = Training(bus, run=fold).run(3, fail_after=cut if fold == "fold-2" else None)
            resumed.append(training.resumed_from)
    at_end, at_cut = "step-00000030-0003", "step-00000010-0001"
    assert resumed == [
        None,
        None,
        str(tmp_path / "fold-1" / at_end),
        str(tmp_path / "fold-2" / at_cut),
    ]


def test_handler_attached_after_the_resume_finds_its_state(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path))
    bus.attach(EarlyStopping("val_loss", on="epoch_finished", patience=9))
    Training(bus).run(2, sequence_of([1.0, 2.0]))
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    training, late = Training(bus), EarlyStopping("val_loss", on="epoch_finished", patience=9)
    bus.on("run_started")(lambda: bus.attach(late) and None)
    training.run(2)
    assert (late.best, late.count) == (1.0, 1)


def test_resumed_handler_knows_its_paths_before_it_saves(tmp_path: Path) -> None:
    train(tmp_path, keep=None, metrics=sequence_of([3, 1, 4, 5, 6]))
    bus, checkpoint = EventBus(), Checkpoint(tmp_path, resume="auto")
    bus.attach(checkpoint)
    Training(bus).run(5)
    assert checkpoint.best_path == tmp_path / "step-00000020-0002"
    assert checkpoint.last_path == tmp_path / "step-00000050-0005"


# -- directories and ranks


def test_directory_takes_the_id_and_the_name_of_the_run(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "{run}" / "{run_id}"))
    Training(bus, run="digits", run_id="abc").run(1)
    assert epochs_in(tmp_path / "digits" / "abc") == [1]


@pytest.mark.parametrize("run_id", ["../../up", "..", "a/b", "a\\b"])
def test_id_of_a_run_leads_nowhere_else(tmp_path: Path, run_id: str) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "runs" / "{run_id}"))
    Training(bus, run_id=run_id).run(1)
    (inside,) = (tmp_path / "runs").iterdir()
    assert epochs_in(inside) == [1]
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]


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


def test_other_ranks_resume_like_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path)
    monkeypatch.setenv("RANK", "1")
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    assert Training(bus).run(6).epoch == 6


# -- without a bus


def test_checkpoint_loads_as_plain_python(tmp_path: Path) -> None:
    checkpoint = train(tmp_path)
    assert checkpoint.last_path is not None
    state = Checkpoint.load(checkpoint.last_path)
    assert type(state) is dict
    assert state["loop"] == {"epoch": 5}
    assert state["model"]["weight"].device.type == "cpu"


def test_saved_lists_oldest_first_and_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    train(tmp_path / "run", keep=None, epochs=2)
    assert [s.sequence for s in Checkpoint.saved(tmp_path / "run")] == [1, 2]
    assert Checkpoint.saved(tmp_path / "none") == []


# -- arguments


@pytest.mark.parametrize("keep", [0, -1, True, 1.5])
def test_keep_is_a_count(tmp_path: Path, keep: Any) -> None:
    with pytest.raises(ValueError, match="keep is at least 1, or None for all"):
        Checkpoint(tmp_path, keep=keep)


@pytest.mark.parametrize("resume", [True, None, ""])
def test_resume_is_a_word_or_a_path(tmp_path: Path, resume: Any) -> None:
    with pytest.raises(TypeError, match="resume is 'auto', 'never' or a path"):
        Checkpoint(tmp_path, resume=resume)


def test_mode_is_checked(tmp_path: Path) -> None:
    mode: Any = "best"
    with pytest.raises(ValueError, match="mode is 'min' or 'max'"):
        Checkpoint(tmp_path, mode=mode)


def test_second_one_asks_for_a_name(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path))
    with pytest.raises(EventBusError, match="name="):
        bus.attach(Checkpoint(tmp_path))
