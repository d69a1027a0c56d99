"""`eventbus checkpoints`: what it lists, verifies, shows and deletes, and how it says no."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventbus.cli import main
from eventbus.handlers import Checkpoint

from .hand_loop import epochs_in, sequence_of, train


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five checkpoints, of which the second is the best."""
    train(tmp_path / "run", keep=None, metrics=sequence_of([3, 1, 4, 5, 6]))
    return tmp_path / "run"


def damage(path: Path) -> None:
    data = bytearray((path / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "state.pt").write_bytes(data)


def line_of(name: str, shown: str) -> str:
    (line,) = (line for line in shown.splitlines() if name in line)
    return line


def test_each_checkpoint_is_listed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "train   2       20" in line_of("step-00000020-0002", shown)
    assert "val_loss 1" in line_of("step-00000020-0002", shown)
    assert [epoch for epoch in range(1, 6) if "best" in line_of(f"-000{epoch}", shown)] == [2]


def test_best_is_that_of_the_mode_it_was_saved_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, epochs=3, keep=None, mode="max", metrics=sequence_of([1, 2, 0]))
    assert main(["checkpoints", str(tmp_path)]) == 0
    assert "best" in line_of("-0002", capsys.readouterr().out)


def test_sound_ones_are_verified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", str(run), "--verify"]) == 0
    assert capsys.readouterr().out.count("sound") == 5


def test_damaged_ones_are_told_of(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run / "step-00000030-0003")
    (run / "step-00000040-0004" / "manifest.json").write_text("{")
    assert main(["checkpoints", str(run), "--verify"]) == 2
    said = capsys.readouterr()
    assert "state.pt does not match its SHA-256" in line_of("-0003", said.out)
    assert "the manifest is not JSON" in line_of("-0004", said.out)
    assert said.err == "eventbus: 2 of 5 checkpoints cannot be used\n"


def test_one_that_was_put_aside_is_listed_as_such(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = run / "step-00000050-0005.damaged"
    (run / "step-00000050-0005").rename(aside)
    assert main(["checkpoints", str(run)]) == 0
    assert "put aside as damaged" in line_of(aside.name, capsys.readouterr().out)


@pytest.mark.parametrize("which", ["latest", "step-00000050-0005", "path"])
def test_one_is_shown_with_all_that_is_in_it(
    run: Path, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    which = str(run / "step-00000050-0005") if which == "path" else which
    assert main(["checkpoints", str(run), "--show", which]) == 0
    shown = capsys.readouterr().out
    assert str(run / "step-00000050-0005") in shown
    assert "5, 50" in line_of("epoch, step", shown)
    assert "val_loss 6" in line_of("metrics", shown)
    assert "torch " in line_of("versions", shown)
    assert "state.pt" in line_of("files", shown)
    assert "12 B of tensors  weight" in line_of("model", shown)
    assert "0 B of tensors  epoch" in line_of("loop", shown)


def test_damaged_one_is_not_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run / "step-00000030-0003")
    assert main(["checkpoints", str(run), "--show", "step-00000030-0003"]) == 2
    assert "does not match its SHA-256" in capsys.readouterr().err


def test_pruning_keeps_the_newest_and_the_best(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoints", str(run), "--prune", "2"]) == 0
    assert epochs_in(run) == [2, 4, 5]
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["deleted step-00000010-0001", "deleted step-00000030-0003"]
    assert said[2] == f"3 checkpoints are left in {run}"
    assert Checkpoint.load(run)["loop"]["epoch"] == 5


def test_damaged_ones_do_not_count_as_kept(run: Path) -> None:
    damage(run / "step-00000050-0005")
    damage(run / "step-00000020-0002")
    assert main(["checkpoints", str(run), "--prune", "1"]) == 0
    assert epochs_in(run) == [1, 4, 5]  # the best that verifies, the newest that does, the damaged


def test_nothing_is_deleted_where_nothing_verifies(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for saved in Checkpoint.saved(run):
        damage(saved.path)
    assert main(["checkpoints", str(run), "--prune", "1"]) == 2
    assert "nothing is deleted" in capsys.readouterr().err
    assert len(epochs_in(run)) == 5


def test_pruning_leaves_what_is_not_ours(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "step-00000010-0001" / "notes.txt").touch()
    (run / "step-00000001-0000").mkdir()
    (run / "thesis").mkdir()
    assert main(["checkpoints", str(run), "--prune", "1"]) == 0
    assert "kept step-00000010-0001" in capsys.readouterr().out
    left = {entry.name for entry in run.iterdir()}
    assert {"step-00000010-0001", "step-00000001-0000", "thesis", "latest"} <= left


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none"], "there is no directory 'none'"),
        (["."], ". holds no checkpoint"),
        ([".", "--show", "latest"], "there is no checkpoint that can be used at ."),
        ([".", "--show", "step-1"], "'step-1' is no checkpoint in ., nor a path of one"),
        ([".", "--prune", "0"], "--prune keeps at least 1, got 0"),
        ([".", "--verify", "--prune", "1"], "one of --verify, --show and --prune at a time"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["checkpoints", *arguments]) == 2
    assert capsys.readouterr().err == f"eventbus: {said}\n"
