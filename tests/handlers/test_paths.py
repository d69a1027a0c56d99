"""Where handlers write: a place fixed when they are made, that may name the run, and is nobody's.

A relative path is looked up from where the handler was made, wherever the process goes later.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, every
from eventbus.handlers import Checkpoint, CSVLog, JSONLLog, Plot, TensorBoard
from eventbus.handlers._paths import RunNames, path_of_run
from eventbus.handlers.checkpoint import CheckpointError
from eventbus.loops import Run

WRITERS: dict[str, Callable[[], Any]] = {
    "CSVLog": lambda: CSVLog("runs/log.csv"),
    "CSVLog of each run": lambda: CSVLog("runs/{run_id}.csv"),
    "JSONLLog": lambda: JSONLLog("runs/log.jsonl"),
    "Plot": lambda: Plot("runs/curves.png"),
    "TensorBoard": lambda: TensorBoard("runs", when=every(1)),
    "Checkpoint": lambda: Checkpoint("runs", keep=None),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_handler_writes_stays_in_one_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    bus = EventBus(strict=True)
    writer = WRITERS[name]()
    bus.attach(writer)
    monkeypatch.chdir("elsewhere")
    with Run(bus, run_id="one") as run:
        for epoch in run.epochs(2):
            for _ in run.batches([1]):
                run.report(loss=1.0)
            monkeypatch.chdir(tmp_path if epoch == 1 else "elsewhere")
    assert any(path.is_file() for path in (tmp_path / "runs").rglob("*"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_checkpoint_to_resume_from_is_where_it_was_when_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bus = EventBus()
    bus.attach(Checkpoint("first", on="batch_finished"))
    with Run(bus) as run:
        for _ in run.batches([1, 2]):
            run.report(loss=1.0)
    bus = EventBus()
    bus.attach(Checkpoint("second", resume="first"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with Run(bus) as run:
        assert run.step == 2


# -- paths that name the run

BY_RUN: dict[str, Callable[[Path], Any]] = {
    "CSVLog": lambda folder: CSVLog(folder / "{run}" / "{run_id}.csv"),
    "JSONLLog": lambda folder: JSONLLog(folder / "{run}" / "{run_id}.jsonl"),
    "Plot": lambda folder: Plot(folder / "{run}" / "{run_id}.png"),
    "TensorBoard": lambda folder: TensorBoard(folder / "{run}" / "{run_id}", when=every(1)),
    "Checkpoint": lambda folder: Checkpoint(folder / "{run}" / "{run_id}"),
}


def train(bus: EventBus, name: str, run_id: str | None = None) -> None:
    with Run(bus, name=name, run_id=run_id) as run:
        for _ in run.epochs(1):
            for _ in run.batches([1]):
                run.report(loss=1.0)


@pytest.mark.parametrize("name", BY_RUN)
def test_every_path_may_name_the_run_and_its_id(name: str, tmp_path: Path) -> None:
    bus = EventBus(strict=True)
    bus.attach(BY_RUN[name](tmp_path))
    for fold in ("fold-1", "fold-2"):
        train(bus, name=fold, run_id=f"id-of-{fold}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fold-1", "fold-2"]
    found = {path.stem for path in tmp_path.glob("*/*")}
    assert found == {"id-of-fold-1", "id-of-fold-2"}


@pytest.mark.parametrize("name", BY_RUN)
def test_a_placeholder_that_nobody_fills_is_refused_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\{run\} or \{run_id\}, and nothing else") as caught:
        BY_RUN[name](tmp_path / "{epoch}")
    assert str(caught.value).startswith(f"{name}: ")
    assert "got {epoch} in " in str(caught.value)


@pytest.mark.parametrize("value", [None, "", "..", "a/b", "a b"])
def test_what_cannot_be_a_name_of_a_file_is_refused(value: str | None) -> None:
    with pytest.raises(ValueError, match="its run must be letters, digits and any of"):
        path_of_run("CSVLog", "runs/{run}.csv", RunNames("id", value))


# -- folders that are in the way

TAKES_A_FILE: dict[str, Callable[[Any], Any]] = {
    "CSVLog": CSVLog,
    "JSONLLog": JSONLLog,
    "Plot": lambda path: Plot(path, when=every(1)),
}


def folder_of_a_user(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "weights.pt").write_text("precious")
    return path


@pytest.mark.parametrize("name", TAKES_A_FILE)
def test_the_folder_of_a_user_is_no_path_of_a_file(name: str, tmp_path: Path) -> None:
    folder = folder_of_a_user(tmp_path / "runs.png")
    for given in (folder, f"{folder}/", f"{tmp_path}/not-there/"):
        with pytest.raises(ValueError, match=f"{name} takes the path of a file; got the folder"):
            TAKES_A_FILE[name](given)
    assert (folder / "weights.pt").read_text() == "precious"


@pytest.mark.parametrize("name", TAKES_A_FILE)
def test_a_folder_that_came_meanwhile_stays_where_it_is(name: str, tmp_path: Path) -> None:
    bus = EventBus(strict=True)
    bus.attach(TAKES_A_FILE[name](tmp_path / "{run}.png"))
    folder = folder_of_a_user(tmp_path / "digits.png")
    with pytest.raises(FileExistsError, match="is a folder: it is left as it is"):
        train(bus, name="digits")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.png"]
    assert (folder / "weights.pt").read_text() == "precious"


@pytest.mark.parametrize("make", [TensorBoard, Checkpoint])
def test_a_file_is_no_path_of_a_folder(make: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(ValueError, match="takes the path of a folder; got the file"):
        make(tmp_path / "runs")


@pytest.mark.parametrize("make", [TensorBoard, Checkpoint])
def test_no_path_at_all_is_not_the_folder_that_the_process_is_in(
    make: Callable[[str], Any],
) -> None:
    with pytest.raises(ValueError, match=r"the path of a folder; got '': write '\.' for this one"):
        make("")
    make(".")


@pytest.mark.parametrize("name", BY_RUN)
def test_a_file_where_a_folder_is_to_be_is_named(name: str, tmp_path: Path) -> None:
    bus = EventBus(strict=True)
    bus.attach(BY_RUN[name](tmp_path))
    (tmp_path / "digits").touch()
    with pytest.raises(
        (OSError, CheckpointError), match=f"{name} needs the folder .*digits.* is a file"
    ):
        train(bus, name="digits")


@pytest.mark.parametrize("name", BY_RUN)
def test_a_link_to_nothing_where_a_folder_is_to_be_is_named(name: str, tmp_path: Path) -> None:
    bus = EventBus(strict=True)
    bus.attach(BY_RUN[name](tmp_path))
    (tmp_path / "digits").symlink_to(tmp_path / "not-mounted")
    with pytest.raises(
        (OSError, CheckpointError), match=f"{name} needs .*digits is a link to .*ed"
    ):
        train(bus, name="digits")
