"""`eventbus demo`: what it writes, says and goes on from; how good it is, in a slow test."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from eventbus.cli import main
from eventbus.cli.demo import Options, demo
from eventbus.cli.demo_handlers import PATIENCE
from eventbus.handlers.csv_log import CSVLog

EPOCHS = 2


def run_demo(folder: Path, epochs: int = EPOCHS, *, resume: bool = False) -> str:
    """Run it, and return what it showed."""
    console = Console(file=io.StringIO(), width=300)
    demo(Options(epochs=epochs, run_dir=folder, resume=resume), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder that a run of `EPOCHS` epochs was written into, and what was shown."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return folder, run_demo(folder)


def fails_with(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, and return the one line that it fails with."""
    assert main(["demo", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("eventbus: ")
    assert said.count("\n") == 1
    return said


def test_a_run_leaves_rows_a_picture_and_checkpoints(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    assert [row["epoch"] for row in CSVLog.read(folder / "metrics.csv")] == [1, 2]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "checkpoints").glob("*/state.pt"))


def test_the_network_learns(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    first, last = CSVLog.read(folder / "metrics.csv")
    assert float(last["loss"]) < 0.5 * float(first["loss"])
    assert float(last["val_accuracy"]) > 0.9


def test_the_summary_names_the_best_epoch_and_its_accuracy(finished: tuple[Path, str]) -> None:
    folder, shown = finished
    best = min(CSVLog.read(folder / "metrics.csv"), key=lambda row: float(row["val_loss"]))
    assert f"{best['epoch']}: val_loss {float(best['val_loss']):.4f}" in shown
    assert f"{float(best['val_accuracy']):.1%}" in shown


def test_the_summary_says_why_it_stopped(finished: tuple[Path, str]) -> None:
    assert f"after epoch {EPOCHS}, as told" in finished[1]


def test_the_summary_lists_every_file(finished: tuple[Path, str]) -> None:
    folder, shown = finished
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert all(str(path) in shown for path in files)


@pytest.mark.parametrize(
    "handler", ["ProgressBar", "ConsoleLog", "CSVLog", "Plot", "EarlyStopping", "Checkpoint"]
)
def test_the_summary_has_the_time_of_each_handler(finished: tuple[Path, str], handler: str) -> None:
    (line,) = (line for line in finished[1].splitlines() if f"{handler}  " in line)
    assert " s in " in line
    assert " calls" in line


def test_a_resumed_run_is_the_run_that_was_never_interrupted(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = finished
    run_demo(tmp_path / "resumed", epochs=1)
    run_demo(tmp_path / "resumed", resume=True)
    resumed = (tmp_path / "resumed" / "metrics.csv").read_text()
    assert resumed == (folder / "metrics.csv").read_text()


def test_a_resumed_run_that_has_done_more_than_it_is_asked_for_says_so(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "digits")
    shown = run_demo(folder, epochs=1, resume=True)
    assert "at once: epoch 2 is done, and --epochs is 1" in shown


def test_the_number_of_threads_is_given_back(finished: tuple[Path, str]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        run_demo(finished[0], resume=True)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_folder_that_holds_a_run_is_not_overwritten(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (finished[0] / "metrics.csv").read_text()
    assert "--resume" in fails_with(capsys, "--run-dir", str(finished[0]))
    assert (finished[0] / "metrics.csv").read_text() == rows


def test_a_run_is_not_resumed_with_another_split(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails_with(capsys, "--resume", "--run-dir", str(finished[0]), "--seed", "7")
    assert "--seed 0" in said
    assert "got 7" in said


def test_nothing_to_resume_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "nothing to resume" in fails_with(capsys, "--resume")
    assert "nothing to resume" in fails_with(capsys, "--resume", "--run-dir", "elsewhere")
    assert not list(tmp_path.iterdir())


def test_settings_that_are_damaged_are_named(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "settings.json").write_text("[]")
    assert "settings.json" in fails_with(capsys, "--resume", "--run-dir", str(tmp_path))


def test_a_run_whose_checkpoints_are_damaged_says_so(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    for state in tmp_path.glob("checkpoints/*/state.pt"):
        state.write_bytes(b"")
    assert "checkpoint" in fails_with(capsys, "--resume", "--run-dir", str(tmp_path))


def test_a_run_that_saved_nothing_yet_may_begin_again(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 5}))
    run_demo(tmp_path, epochs=1)
    assert json.loads((tmp_path / "settings.json").read_text()) == {"seed": 0}


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    said = fails_with(capsys, "--run-dir", str(tmp_path / "run"))
    assert "pip install 'training-eventbus[demo]'" in said
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in fails_with(capsys, "--run-dir", str(tmp_path / "file" / "run"))


class Interrupting(io.StringIO):
    """A terminal at which somebody presses Ctrl-C when that epoch is shown."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = f"epoch {epoch}/"

    def write(self, text: str) -> int:
        if text.startswith(self.epoch) and "done" in text and "ctrl-c" not in self.getvalue():
            super().write("ctrl-c\n")
            raise KeyboardInterrupt
        return super().write(text)


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Interrupting(epoch=2)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["demo", "--epochs", "2", "--run-dir", str(tmp_path)]) == 130
    assert "ctrl-c" in terminal.getvalue()
    assert f"eventbus demo --resume --run-dir {tmp_path}" in terminal.getvalue()


def test_an_interrupt_before_the_first_checkpoint_promises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Interrupting(epoch=1)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["demo", "--epochs", "2", "--run-dir", str(tmp_path)]) == 130
    assert "ctrl-c" in terminal.getvalue()
    assert "--resume" not in terminal.getvalue()


def test_runs_get_folders_of_their_own_and_the_newest_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--epochs", "1"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("digits-2")
    older = tmp_path / "runs" / "digits-19990101-000000"
    shutil.copytree(folder, older)
    assert main(["demo", "--epochs", "2", "--resume"]) == 0
    assert len(CSVLog.read(folder / "metrics.csv")) == 2
    assert "resumed from" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demo_reads_more_than_97_in_100_digits(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = demo(Options(run_dir=folder, seed=1), Console(file=io.StringIO()))
    rows = CSVLog.read(folder / "metrics.csv")
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert float(best["val_accuracy"]) > 0.97
    assert run.stop is None or f"patience {PATIENCE}" in run.stop.reason
