"""Checkpoint: what a run goes on from, and that it ends where one would that was never cut."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from eventbus import EventBus, at
from eventbus.handlers import Checkpoint, EarlyStopping
from eventbus.handlers._checkpoint_manifest import encode
from eventbus.handlers._files import Files
from eventbus.handlers.checkpoint import CheckpointError, SavedCheckpoint
from eventbus.loops import Run

from .hand_loop import Training, epochs_in, sequence_of, train
from .saving import leave_unfinished, unfinished


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


def test_what_a_killed_process_left_unfinished_is_gone_once_another_goes_on(tmp_path: Path) -> None:
    train(tmp_path, epochs=1)
    leave_unfinished(tmp_path)
    for resume, left in (("never", 1), ("auto", 0)):
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, resume=resume))
        bus.bind(sender="train", run="train").emit("run_opened")
        assert len(unfinished(tmp_path)) == left


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
    with pytest.raises(CheckpointError, match=r"there is no directory .*gone"):
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
    aside = tmp_path / "step-00000030-0003.damaged"
    assert sorted(entry.name for entry in aside.iterdir()) == ["manifest.json", "state.pt"]
    assert epochs_in(tmp_path) == [7, 8]


def test_damaged_checkpoint_is_summed_and_told_of_only_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, epochs=3, keep=None)
    damage(Checkpoint.saved(tmp_path)[-1])
    for _ in range(2):
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, resume="auto", keep=None))
        Training(bus).run(3, fail_after=3)
    assert caplog.text.count("passed over") == 1
    names = [saved.path.name for saved in Checkpoint.saved(tmp_path)]
    assert names[-1] == "step-00000030-0004"  # the number of the one put aside is not used again


@pytest.mark.parametrize("rename", ["another format", "an extra file", "no manifest"])
def test_what_may_be_good_for_others_is_not_put_aside(tmp_path: Path, rename: str) -> None:
    train(tmp_path, epochs=2, keep=None)
    newest = Checkpoint.saved(tmp_path)[-1]
    manifest = newest.path / "manifest.json"
    if rename == "another format":
        manifest.write_bytes(encode(replace(newest.manifest, format=2)))
    elif rename == "an extra file":
        (newest.path / "notes.txt").touch()
    else:
        manifest.unlink()
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto", keep=None))
    training = Training(bus).run(2)
    assert training.resumed_from == str(tmp_path / "step-00000010-0001")
    assert newest.path.is_dir()


def test_damaged_checkpoint_that_cannot_be_renamed_is_passed_over_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class ReadOnly(Files):
        def rename(self, source: Path, target: Path) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    train(tmp_path, epochs=2, keep=None)
    damage(Checkpoint.saved(tmp_path)[-1])
    bus, checkpoint = EventBus(), Checkpoint(tmp_path, resume="auto", when=at(99), at_end=False)
    checkpoint.files = ReadOnly()
    bus.attach(checkpoint)
    assert Training(bus).run(2).resumed_from == str(tmp_path / "step-00000010-0001")
    assert "keeps its name: Read-only file system" in caplog.text


class Refusing(Files):
    """A disk that at the moment lets nobody read one file or directory."""

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number

    def open(self, path: Path) -> BinaryIO:
        self._refuse(path)
        return super().open(path)

    def scandir(self, path: Path) -> list[os.DirEntry[str]]:
        self._refuse(path)
        return super().scandir(path)

    def _refuse(self, path: Path) -> None:
        if path == self.path:
            raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("name", ["state.pt", "manifest.json", ".", ".."])
def test_checkpoint_that_cannot_be_read_is_neither_passed_over_nor_put_aside(
    tmp_path: Path, name: str
) -> None:
    train(tmp_path, epochs=2, keep=None)
    bus, checkpoint = EventBus(), Checkpoint(tmp_path, resume="auto")
    refused = Path(os.path.normpath(tmp_path / "step-00000020-0002" / name))
    checkpoint.files = Refusing(refused, errno.EIO)
    bus.attach(checkpoint)
    with pytest.raises(CheckpointError, match=r"read: Input/output error.* may be sound.* rename"):
        Training(bus).run(3)
    assert epochs_in(tmp_path) == [1, 2]


def test_checkpoint_that_is_gone_meanwhile_is_passed_over(tmp_path: Path) -> None:
    train(tmp_path, epochs=2, keep=None)
    bus, checkpoint = EventBus(), Checkpoint(tmp_path, resume="auto", when=at(99), at_end=False)
    checkpoint.files = Refusing(tmp_path / "step-00000020-0002" / "state.pt", errno.ENOENT)
    bus.attach(checkpoint)
    assert Training(bus).run(2).resumed_from == str(tmp_path / "step-00000010-0001")


def test_run_starts_afresh_and_says_so_where_all_are_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, epochs=1)
    damage(Checkpoint.saved(tmp_path)[0])
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    assert Training(bus).run(1).resumed_from is None
    assert "starts afresh" in caplog.text


def test_completed_run_is_not_gone_on_from_by_the_next_on_the_bus(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    Training(bus).run(3)
    assert Training(bus).run(3).resumed_from is None
    (message,) = caplog.messages
    assert "which has come to its end on this bus: this one starts afresh" in message
    assert "keep one Run open" in message


def test_run_of_another_name_is_not_told_that_it_has_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    for run in ("one", "other"):
        assert Training(bus, run=run).run(2).resumed_from is None
    (message,) = caplog.messages
    assert message.endswith("can be gone on from: the run 'other' starts afresh")


def test_run_that_was_killed_is_not_told_that_it_has_ended_here(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for bus, runs in ((EventBus(), ("other",)), (EventBus(), ("one", "other"))):
        bus.attach(Checkpoint(tmp_path, resume="auto"))
        for run in runs:
            Training(bus, run=run).run(2)
    message = caplog.messages[-1]
    assert "of the run 'other' are older than the end of another run on this bus" in message


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


def warned_of_others(directory: Path, caplog: pytest.LogCaptureFixture, **context: str) -> bool:
    bus = EventBus()
    bus.attach(Checkpoint(directory / "{run_id}" / "{run}", resume="auto"))
    caplog.clear()
    assert Training(bus, **context).run(1).resumed_from is None
    return "give Run a run_id=" in caplog.text


def test_directory_by_an_id_that_is_drawn_anew_is_told_where_others_hold_checkpoints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not warned_of_others(tmp_path, caplog)
    assert warned_of_others(tmp_path, caplog)
    assert not warned_of_others(tmp_path, caplog, run="another")


def test_directory_by_an_id_that_was_given_may_be_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for run_id in ("first", "second"):
        assert not warned_of_others(tmp_path, caplog, run_id=run_id)


def test_what_fails_while_state_is_given_back_says_which_checkpoint_it_is_of(
    tmp_path: Path,
) -> None:
    train(tmp_path, epochs=1)
    (saved,) = Checkpoint.saved(tmp_path)
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    bus.on("state_restored")(lambda: 1 / 0 and None)
    with pytest.raises(ZeroDivisionError) as caught:
        Training(bus).run(2)
    (note,) = [note for note in caught.value.__notes__ if "checkpoint" in note]
    assert note == (
        f"the run goes on from the checkpoint {saved.path}, saved at {saved.manifest.saved_at}, "
        "for resume='auto'"
    )


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


def test_other_ranks_resume_like_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path)
    monkeypatch.setenv("RANK", "1")
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    assert Training(bus).run(6).epoch == 6


# -- a run that was opened before the handler could be asked


def train_with_one_too_late(bus: EventBus, checkpoint: Checkpoint) -> None:
    with Run(bus, run_id="same") as run:
        bus.attach(checkpoint)
        for _ in run.epochs(1):
            pass


@pytest.mark.parametrize("resume", ["auto", "path"])
def test_one_that_comes_too_late_to_resume_saves_nothing_over_what_there_is(
    tmp_path: Path, resume: str
) -> None:
    train(tmp_path, epochs=2)
    before, bus = sorted(tmp_path.iterdir()), EventBus()
    late = Checkpoint(tmp_path, resume="auto" if resume == "auto" else tmp_path)
    with pytest.raises(CheckpointError, match="attach it before the Run is opened") as caught:
        train_with_one_too_late(bus, late)
    assert "was attached to a run that was open already" in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_one_that_comes_late_and_is_not_to_resume_saves(tmp_path: Path) -> None:
    train_with_one_too_late(EventBus(), Checkpoint(tmp_path))
    assert epochs_in(tmp_path) == [1]


def test_one_that_heard_the_first_run_open_is_late_where_it_missed_the_second(
    tmp_path: Path,
) -> None:
    bus, checkpoint = EventBus(), Checkpoint(tmp_path, resume="auto")
    with bus.attach(checkpoint), Run(bus, run_id="same") as run:
        for _ in run.epochs(1):
            pass
    with pytest.raises(CheckpointError, match="open already"):
        train_with_one_too_late(bus, checkpoint)


def test_loop_that_opens_no_run_is_saved_and_told_once_that_nothing_resumes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    loop = bus.bind(sender="train")
    for epoch in (1, 2, 3):
        loop.emit("epoch_finished", epoch=epoch, step=epoch, metrics={"val_loss": 0.5})
    assert epochs_in(tmp_path) == [1, 2, 3]
    told = [record.getMessage() for record in caplog.records]
    assert told == ["Checkpoint(resume='auto') resumes nothing: the loop emits no run_opened"]


def test_who_hears_all_signals_hears_nothing_of_what_checkpoints_say_to_one_another(
    tmp_path: Path,
) -> None:
    heard: list[list[str]] = []
    for epochs in (1, 2):
        heard.append([])
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, best=None, resume="auto"))
        bus.on("*")(lambda event: heard[-1].append(event.name))
        with Run(bus, model=torch.nn.Linear(1, 1)) as run:
            for _ in run.epochs(epochs):
                pass
    assert run.epoch == 2
    assert heard[0] == heard[1]
