"""`eventbus checkpoints`: what it lists, verifies, shows and deletes, and how it says no."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from eventbus.cli import main
from eventbus.cli.checkpoints import CheckpointOptions, checkpoints
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


def listed_at(width: int, directory: Path, *, on_terminal: bool = True) -> list[str]:
    """List a directory on a console so wide; return the lines without trailing blanks."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=on_terminal, color_system=None, markup=False
    )
    checkpoints(CheckpointOptions(directory), console)
    return [line.rstrip() for line in file.getvalue().splitlines()]


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


def move_away(path: Path) -> Path:
    """Move a checkpoint elsewhere and leave a link in its place; return where it is."""
    elsewhere = path.parent.parent / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    return elsewhere


def test_pruning_leaves_links_and_what_they_lead_to(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = move_away(run / "step-00000010-0001")
    assert main(["checkpoints", str(run), "--prune", "1"]) == 0
    assert "kept step-00000010-0001: it is a link" in capsys.readouterr().out
    assert epochs_in(run) == [1, 2, 5]
    assert Checkpoint.load(elsewhere)["loop"]["epoch"] == 1


def test_links_are_listed_as_any_other_and_said_where_nothing_is_there(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move_away(run / "step-00000050-0005")
    elsewhere = move_away(run / "step-00000040-0004")
    elsewhere.rename(elsewhere.with_name("unmounted"))
    assert main(["checkpoints", str(run), "--verify"]) == 2
    shown = capsys.readouterr().out
    assert "sound" in line_of("step-00000050-0005", shown)
    assert f"it is a link to {elsewhere}, and no dir" in line_of("step-00000040-0004 ", shown)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["none"],
            "there is no directory 'none': name the directory that a Checkpoint handler saves to",
        ),
        (["file"], "'file' is a file: name the directory that a Checkpoint handler saves to"),
        (["."], ". holds no checkpoint"),
        ([".", "--show", "latest"], "there is no checkpoint that can be used at ."),
        (
            [".", "--show", "step-1"],
            "'step-1' is no checkpoint in ., nor a path of one: eventbus checkpoints . lists them",
        ),
        ([".", "--prune", "0"], "--prune keeps at least 1, got 0"),
        ([".", "--verify", "--prune", "1"], "one of --verify, --show and --prune at a time"),
        ([".", "--dry-run"], "--dry-run goes with --prune: it says what that would delete"),
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
    (tmp_path / "file").touch()
    assert main(["checkpoints", *arguments]) == 2
    assert capsys.readouterr().err == f"eventbus: {said}\n"


# -- where it is printed


def test_a_terminal_too_narrow_for_the_table_gets_whole_lines_for_each(run: Path) -> None:
    (saved, *_) = Checkpoint.saved(run)
    when = saved.manifest.saved_at.removesuffix("+00:00").replace("T", " ")
    first, facts, metrics, *_ = listed_at(80, run)
    size = saved.manifest.files["state.pt"].bytes / 1000
    assert first == "step-00000010-0001"
    assert facts.split(", ") == [
        "    run train",
        "epoch 1",
        "step 10",
        f"{size:.1f} kB",
        f"{when} UTC",
    ]
    assert metrics == "    val_loss 3"


def test_a_narrow_terminal_is_told_what_is_wrong_beside_the_name(run: Path) -> None:
    (run / "step-00000030-0003" / "manifest.json").write_text("{}")
    lines = listed_at(80, run)
    assert "step-00000020-0002  best" in lines
    place = lines.index("step-00000030-0003")
    assert lines[place + 1] == "    the manifest is not one of a checkpoint"


def test_a_wide_terminal_gets_a_line_for_each(run: Path) -> None:
    lines = listed_at(200, run)
    assert sum("val_loss" in line and "step-" in line for line in lines) == 5


def test_a_pipe_gets_a_line_for_each_however_narrow_it_is_said_to_be(run: Path) -> None:
    lines = listed_at(40, run, on_terminal=False)
    assert sum("val_loss" in line and "step-" in line for line in lines) == 5


# -- what is there besides


def test_unfinished_ones_are_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / ".unfinished-60-6-00000000-1-00000000").mkdir()
    assert main(["checkpoints", str(run)]) == 0
    assert "1 unfinished: under way, or left by a process that died" in capsys.readouterr().out


def test_directory_with_an_unfinished_one_alone_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".unfinished-60-6-00000000-1-00000000").mkdir()
    assert main(["checkpoints", str(tmp_path)]) == 2
    assert "holds no checkpoint, but 1 unfinished" in capsys.readouterr().err


def test_directory_of_directories_says_which_of_them_hold_some(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.parent / "thesis").mkdir()
    assert main(["checkpoints", str(run.parent)]) == 2
    said = capsys.readouterr().err
    assert said == f"eventbus: {run.parent} holds no checkpoint; these in it do: {run}\n"


def test_one_without_a_manifest_is_told_of(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "step-00000001-0006").mkdir()
    assert main(["checkpoints", str(run)]) == 0
    assert "no manifest.json" in line_of("step-00000001-0006", capsys.readouterr().out)


def test_path_of_one_is_told_how_to_show_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "step-00000010-0001"
    assert main(["checkpoints", str(path), "--verify"]) == 2
    wanted = f"write eventbus checkpoints {run} --show {path.name}"
    assert wanted in capsys.readouterr().err


def test_one_within_which_the_command_runs_is_told_by_its_name(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run / "step-00000010-0001")
    assert main(["checkpoints", "."]) == 2
    assert f"checkpoints {run} --show step-00000010-0001" in capsys.readouterr().err


def test_what_is_shown_says_by_what_the_best_is_kept(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoints", str(run), "--show", "latest"]) == 0
    assert "val_loss, min" in line_of("best by", capsys.readouterr().out)


# -- pruning


def test_a_dry_run_says_what_pruning_would_do_and_does_not(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "step-00000010-0001" / "notes.txt").touch()
    before = sorted(path.name for path in run.rglob("*"))
    assert main(["checkpoints", str(run), "--prune", "2", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "would keep step-00000010-0001: it holds notes.txt",
        "would delete step-00000030-0003",
        f"4 checkpoints would be left in {run}",
    ]
    assert sorted(path.name for path in run.rglob("*")) == before


def test_directory_that_cannot_be_written_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    assert main(["checkpoints", str(run), "--prune", "1"]) == 2
    assert capsys.readouterr().err == f"eventbus: nothing is deleted: {run} is not writable\n"
    assert len(epochs_in(run)) == 5
