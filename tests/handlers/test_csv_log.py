"""CSVLog: complete rows, new columns, resuming, and other runs' files."""

from __future__ import annotations

import csv
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from eventbus import AttachError, EventBus, every
from eventbus.handlers import CSVLog, JSONLLog
from eventbus.handlers._appending import Mark
from eventbus.handlers._paths import RunNames
from eventbus.handlers._run_file import RunFile
from eventbus.handlers.csv_log import CSV
from eventbus.testing import play, scripted_run

from .reporting import finish_epochs, resume, run_child, start


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def epochs_of(path: Path) -> list[int]:
    return [row["epoch"] for row in CSVLog.read(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.csv"


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


@pytest.mark.parametrize("make", [CSVLog, JSONLLog])
def test_file_that_another_log_of_the_bus_writes_is_refused(
    bus: EventBus, path: Path, make: Callable[[Path], Any]
) -> None:
    first = bus.attach(CSVLog(path))
    message = f"{make.__name__} is to write {path}, which another CSVLog on this bus writes"
    with pytest.raises(AttachError, match=re.escape(message)):
        bus.attach(make(path), name="second")
    assert {one.name for one in bus.subscriptions} == {"CSVLog"}
    first.detach()
    bus.attach(make(path), name="second")


def test_logs_of_different_runs_or_files_are_attached_side_by_side(
    bus: EventBus, path: Path
) -> None:
    bus.attach(CSVLog(path))
    bus.attach(JSONLLog(path.with_suffix(".jsonl")))
    for sender in ("generator", "probe"):
        bus.attach(CSVLog(path.with_name("{run}.csv")), sender=sender, name=sender)
    assert len({one.name for one in bus.subscriptions}) == 4


def test_each_epoch_is_a_row_under_the_names_of_its_metrics(bus: EventBus, path: Path) -> None:
    bus.attach(CSVLog(path))
    finish_epochs(start(bus), 1, 2)
    assert path.read_text() == "epoch,step,loss\n1,10,1.0\n2,20,0.5\n"


def test_a_row_is_there_before_the_run_is_closed(bus: EventBus, path: Path) -> None:
    bus.attach(CSVLog(path))
    finish_epochs(start(bus), 1, 1)
    assert epochs_of(path) == [1]


def test_a_new_metric_adds_a_column_and_keeps_the_old_rows(bus: EventBus, path: Path) -> None:
    bus.attach(CSVLog(path))
    loop = start(bus)
    finish_epochs(loop, 1, 2)
    finish_epochs(loop, 3, 3, val_loss=0.25)
    assert [row["val_loss"] for row in rows_of(path)] == ["", "", "0.25"]
    assert [row["loss"] for row in CSVLog.read(path)] == [1.0, 0.5, 1 / 3]


def test_a_metric_that_is_absent_leaves_its_cell_empty(bus: EventBus, path: Path) -> None:
    bus.attach(CSVLog(path))
    loop = start(bus)
    finish_epochs(loop, 1, 1, val_loss=0.25)
    finish_epochs(loop, 2, 2)
    assert CSVLog.read(path)[1] == {"epoch": 2, "step": 20, "loss": 0.5}


def test_tensors_are_written_as_numbers(bus: EventBus, path: Path) -> None:
    bus.attach(CSVLog(path))
    start(bus).emit("epoch_finished", epoch=1, step=1, metrics={"loss": torch.tensor(0.25)})
    assert CSVLog.read(path)[0]["loss"] == 0.25


def test_pandas_reads_the_numbers_nan_and_infinities_too(bus: EventBus, path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    bus.attach(CSVLog(path))
    loop = start(bus)
    values = [0.1 + 0.2, math.nan, math.inf, -math.inf, 1e-300]
    for epoch, value in enumerate(values, start=1):
        loop.emit("epoch_finished", epoch=epoch, step=epoch, metrics={"loss": value})
    read = pandas.read_csv(path)["loss"].tolist()
    assert [repr(value) for value in read] == [repr(value) for value in values]


@given(
    value=st.floats() | st.integers(),
    name=st.text(min_size=1).filter(lambda name: name not in ("epoch", "step", "reason")),
    text=st.text(min_size=1),
)
@example(value=math.nan, name='a,"b"\r\nc', text='"\n"')
@example(value=-0.0, name="\r", text="\r")
@example(value=1, name="\n\n", text=",")
def test_any_number_name_and_text_come_back_also_after_a_resume(
    tmp_path_factory: pytest.TempPathFactory, value: float, name: str, text: str
) -> None:
    path = tmp_path_factory.mktemp("csv") / "metrics.csv"
    log = CSVLog(path, on="epoch_interrupted")
    bus = EventBus(strict=True)
    bus.attach(log)
    fields: dict[str, Any] = {"epoch": 1, "reason": text, "metrics": {name: value}}
    start(bus).emit("epoch_interrupted", step=1, **fields)
    loop = resume(bus, bus.emit("state_requested").state)
    loop.emit("epoch_interrupted", step=2, **fields)
    assert [row["step"] for row in rows_of(path)] == ["1", "2"]
    assert [row["reason"] for row in rows_of(path)] == [text, text]
    assert [repr(type(value)(row[name])) for row in rows_of(path)] == [repr(value)] * 2
    assert [(row["step"], repr(row[name])) for row in CSVLog.read(path)] == [
        (1, repr(value)),
        (2, repr(value)),
    ]


def test_a_metric_called_like_a_count_gets_a_column_of_its_own(bus: EventBus, path: Path) -> None:
    bus.attach(CSVLog(path))
    start(bus).emit("epoch_finished", epoch=1, step=10, metrics={"epoch": 0.5})
    assert CSVLog.read(path) == [{"epoch": 1, "step": 10, "metrics_epoch": 0.5}]


def test_several_signals_are_told_apart_and_filtered_one_by_one(bus: EventBus, path: Path) -> None:
    bus.attach(CSVLog(path, on={"epoch_finished": None, "batch_finished": every(2)}))
    loop = start(bus)
    for step in (1, 2, 3):
        loop.emit("batch_finished", epoch=1, step=step, loss=torch.tensor(0.5), batch_size=8)
    finish_epochs(loop, 1, 1)
    signals = [(row["signal"], row["step"]) for row in CSVLog.read(path)]
    assert signals == [("batch_finished", 2), ("epoch_finished", 10)]
    assert [row["loss"] for row in CSVLog.read(path)] == [0.5, 1.0]


def test_a_filter_for_all_and_filters_for_each_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        CSVLog(path, on={"epoch_finished": every(2)}, when=every(2))


def test_no_signal_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="at least one signal"):
        CSVLog(path, on=())


def test_other_ranks_write_nothing(
    bus: EventBus, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    bus.attach(CSVLog(path))
    finish_epochs(start(bus), 1, 1)
    assert not path.exists()


# -- which file


def test_the_run_id_is_put_into_the_path(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(CSVLog(tmp_path / "{run_id}" / "metrics.csv"))
    finish_epochs(start(bus, run_id="digits"), 1, 1)
    assert epochs_of(tmp_path / "digits" / "metrics.csv") == [1]


def test_a_run_id_that_leaves_the_folder_is_refused(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(CSVLog(tmp_path / "{run_id}.csv"))
    loop = start(bus, run_id="../elsewhere")
    with pytest.raises(ValueError, match="run_id"):
        finish_epochs(loop, 1, 1)


def test_a_new_run_keeps_the_file_of_the_run_before(bus: EventBus, path: Path) -> None:
    bus.attach(CSVLog(path))
    for run_id, last in (("one", 1), ("two", 2), ("three", 3)):
        finish_epochs(start(bus, run_id=run_id), 1, last)
    kept = [path.with_name("metrics.1.csv"), path.with_name("metrics.2.csv"), path]
    assert [epochs_of(each) for each in kept] == [[1], [1, 2], [1, 2, 3]]


def test_a_run_without_rows_leaves_the_file_alone(bus: EventBus, path: Path) -> None:
    path.write_text("mine")
    bus.attach(CSVLog(path))
    start(bus).emit("run_closed", outcome="failed")
    assert path.read_text() == "mine"


def test_loops_that_take_turns_keep_their_own_files(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(CSVLog(tmp_path / "{run_id}.csv"))
    loops = [bus.bind(sender="train", run_id=run_id) for run_id in ("one", "two")]
    for epoch in (1, 2, 3):
        for loop in loops:
            finish_epochs(loop, epoch, epoch)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.csv", "two.csv"]
    assert epochs_of(tmp_path / "one.csv") == epochs_of(tmp_path / "two.csv") == [1, 2, 3]


# -- resuming


def saved_after_epoch_2(path: Path) -> dict[str, Any]:
    """Run three epochs, save after the second, and die."""
    bus = EventBus(strict=True)
    bus.attach(CSVLog(path))
    loop = start(bus)
    finish_epochs(loop, 1, 2)
    state = dict(bus.emit("state_requested").state)
    finish_epochs(loop, 3, 3, val_loss=0.5)  # the header gets wider behind the position
    return state


def test_rows_after_the_checkpoint_are_dropped_on_resume(bus: EventBus, path: Path) -> None:
    state = saved_after_epoch_2(path)
    bus.attach(CSVLog(path))
    finish_epochs(resume(bus, state), 3, 4)
    assert epochs_of(path) == [1, 2, 3, 4]
    assert all("val_loss" not in row for row in CSVLog.read(path))


def test_resuming_twice_from_one_checkpoint_gives_no_duplicates(path: Path) -> None:
    state = saved_after_epoch_2(path)
    for last in (5, 3, 4):
        bus = EventBus(strict=True)
        bus.attach(CSVLog(path))
        finish_epochs(resume(bus, state), 3, last)
    assert epochs_of(path) == [1, 2, 3, 4]
    assert list(path.parent.iterdir()) == [path]


def test_a_resume_that_has_nothing_left_to_do_still_drops_them(bus: EventBus, path: Path) -> None:
    state = saved_after_epoch_2(path)
    bus.attach(CSVLog(path))
    resume(bus, state)
    assert epochs_of(path) == [1, 2]


def test_an_interrupted_run_writes_the_file_of_an_uninterrupted_one(
    bus: EventBus, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.csv"
    bus.attach(CSVLog(whole))
    finish_epochs(start(bus), 1, 5)
    path, bus = tmp_path / "metrics.csv", EventBus(strict=True)
    bus.attach(CSVLog(path))
    finish_epochs(start(bus), 1, 3)
    state = dict(bus.emit("state_requested").state)
    again = EventBus(strict=True)
    again.attach(CSVLog(path))
    finish_epochs(resume(again, state), 4, 5)
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("bytes_lost", range(1, 12))
def test_a_torn_last_row_is_repaired_on_resume(bus: EventBus, path: Path, bytes_lost: int) -> None:
    state = saved_after_epoch_2(path)
    os.truncate(path, path.stat().st_size - bytes_lost)
    assert epochs_of(path) == [1, 2]
    bus.attach(CSVLog(path))
    finish_epochs(resume(bus, state), 3, 3)
    assert epochs_of(path) == [1, 2, 3]


def test_another_runs_file_is_kept_when_its_place_is_resumed(bus: EventBus, path: Path) -> None:
    state = saved_after_epoch_2(path)
    other = EventBus(strict=True)
    other.attach(CSVLog(path))
    loop = start(other, run_id="other")
    for epoch in (1, 2, 3, 4):
        loop.emit("epoch_finished", epoch=epoch, step=epoch, metrics={"loss": 7.0})
    theirs = path.read_bytes()
    bus.attach(CSVLog(path))
    finish_epochs(resume(bus, state), 3, 3)
    assert epochs_of(path) == [1, 2, 3]
    assert theirs in [file.read_bytes() for file in path.parent.iterdir()]


def test_a_run_that_resumes_under_another_id_takes_the_rows_along(
    bus: EventBus, tmp_path: Path
) -> None:
    template = tmp_path / "{run_id}.csv"
    state = saved_after_epoch_2(template)
    before = (tmp_path / "one.csv").read_bytes()
    bus.attach(CSVLog(template))
    finish_epochs(resume(bus, state, run_id="two"), 3, 3)
    assert epochs_of(tmp_path / "two.csv") == [1, 2, 3]
    assert (tmp_path / "one.csv").read_bytes() == before


def test_a_checkpoint_cannot_point_the_log_at_another_file(bus: EventBus, tmp_path: Path) -> None:
    template = tmp_path / "logs" / "{run_id}.csv"
    state = saved_after_epoch_2(template)
    (tmp_path / "logs" / "one.csv").rename(tmp_path / "secret.csv")
    state["CSVLog"] = {**state["CSVLog"], "run_id": "../secret"}
    bus.attach(CSVLog(template))
    finish_epochs(resume(bus, state), 3, 3)
    assert epochs_of(tmp_path / "logs" / "one.csv") == [3]


def test_a_lost_file_is_begun_anew_and_said(
    bus: EventBus, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = saved_after_epoch_2(path)
    path.unlink()
    bus.attach(CSVLog(path))
    finish_epochs(resume(bus, state), 3, 3)
    assert epochs_of(path) == [3]
    assert "holds the 2 records of the checkpoint" in caplog.text


def test_a_checkpoint_from_before_the_first_row_cuts_nothing(bus: EventBus, path: Path) -> None:
    bus.attach(CSVLog(path))
    start(bus)
    state = dict(bus.emit("state_requested").state)
    path.write_text("epoch,step,loss\n1,10,another run's\n")
    finish_epochs(resume(bus, state), 1, 1)
    assert path.with_name("metrics.1.csv").read_text().endswith("another run's\n")


def test_the_state_is_what_the_safe_loader_accepts(bus: EventBus, path: Path) -> None:
    bus.attach(CSVLog(path))
    finish_epochs(start(bus), 1, 2)
    file = path.with_name("state.pt")
    torch.save(dict(bus.emit("state_requested").state), file)
    assert torch.load(file, weights_only=True)["CSVLog"]["records"] == 2


# -- a file that others touch while the run goes on


def run_beside(path: Path, run_id: str = "other") -> Any:
    """Begin another run in the same place, as another process would."""
    bus = EventBus(strict=True)
    bus.attach(CSVLog(path))
    return start(bus, run_id=run_id)


def test_two_runs_in_one_place_keep_their_rows_apart(
    bus: EventBus, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(CSVLog(path))
    loop = start(bus)
    finish_epochs(loop, 1, 1)
    other = run_beside(path)
    for epoch in (2, 3):
        finish_epochs(other, epoch, epoch)
        finish_epochs(loop, epoch, epoch, val_loss=0.5)
    assert epochs_of(path) == [2, 3]
    assert epochs_of(path.with_name("metrics.1.csv")) == [1, 2, 3]
    assert [each.levelname for each in caplog.records].count("WARNING") == 1
    assert "metrics.1.csv" in caplog.text


def test_a_run_whose_file_another_has_kept_aside_resumes_with_all_its_rows(
    bus: EventBus, path: Path
) -> None:
    bus.attach(CSVLog(path))
    loop = start(bus)
    finish_epochs(loop, 1, 1)
    other = run_beside(path)
    finish_epochs(other, 1, 1, val_loss=0.5)
    finish_epochs(loop, 2, 3)
    state = dict(bus.emit("state_requested").state)
    again = EventBus(strict=True)
    again.attach(CSVLog(path))
    finish_epochs(resume(again, state), 4, 4)
    finish_epochs(other, 2, 2, val_loss=0.5)
    assert epochs_of(path) == [1, 2, 3, 4]
    assert epochs_of(path.with_name("metrics.2.csv")) == [1, 2]


def test_two_runs_that_begin_at_the_same_moment_have_a_file_each(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [RunFile("CSVLog", str(path), CSV) for _ in range(2)]
    for file in files:
        file.settle(RunNames(None, None))  # neither sees one of the other
    for file in files:
        file.set_header(b"epoch\n", bytes)
        file.append(b"1\n")
    assert epochs_of(path) == epochs_of(path.with_name("metrics.1.csv")) == [1]
    assert len(caplog.records) == 1


def test_two_runs_that_resume_from_one_checkpoint_have_a_file_each(path: Path) -> None:
    state = saved_after_epoch_2(path)
    loops = []
    for _ in range(2):
        bus = EventBus(strict=True)
        bus.attach(CSVLog(path))
        loops.append(resume(bus, state))
    for epoch in (3, 4):
        for loop in loops:
            finish_epochs(loop, epoch, epoch)
    assert epochs_of(path) == epochs_of(path.with_name("metrics.1.csv")) == [1, 2, 3, 4]


def delete(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("metrics.csv.1"))


def move_and_leave_an_empty_one(path: Path) -> None:
    move(path)
    path.touch()


def empty(path: Path) -> None:
    os.truncate(path, 0)


def move_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


LOSSES = [delete, move, move_and_leave_an_empty_one, empty, move_the_folder]


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("told", [{}, {"val_loss": 0.5}], ids=["as before", "a new metric"])
def test_a_file_that_goes_away_is_begun_anew_with_its_header_and_said_so(
    bus: EventBus,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    lose: Callable[[Path], None],
    told: dict[str, float],
) -> None:
    path = tmp_path / "run" / "metrics.csv"
    bus.attach(CSVLog(path))
    loop = start(bus)
    finish_epochs(loop, 1, 2)
    lose(path)
    finish_epochs(loop, 3, 4, **told)
    row = {"epoch": 3, "step": 30, "loss": 1 / 3, **told}
    assert CSVLog.read(path) == [row, {**row, "epoch": 4, "step": 40, "loss": 1 / 4}]
    assert caplog.text.count(f"{path} is gone: a new one is begun") == 1


@pytest.mark.parametrize("lose", LOSSES)
def test_a_file_that_was_begun_anew_is_resumed(
    bus: EventBus, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    path = tmp_path / "run" / "metrics.csv"
    bus.attach(CSVLog(path))
    loop = start(bus)
    finish_epochs(loop, 1, 2)
    lose(path)
    finish_epochs(loop, 3, 4)
    state = dict(bus.emit("state_requested").state)
    finish_epochs(loop, 5, 5)
    again = EventBus(strict=True)
    again.attach(CSVLog(path))
    finish_epochs(resume(again, state), 5, 6)
    assert epochs_of(path) == [3, 4, 5, 6]


def test_a_file_that_others_added_to_is_left_and_its_rows_are_taken_along(
    bus: EventBus, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(CSVLog(path))
    loop = start(bus)
    finish_epochs(loop, 1, 2)
    with path.open("a") as file:
        file.write("a note\n")
    noted = path.read_bytes()
    finish_epochs(loop, 3, 3)
    assert path.read_bytes() == noted
    assert epochs_of(path.with_name("metrics.1.csv")) == [1, 2, 3]
    assert "is not what this run has written" in caplog.text


def test_a_copy_in_the_place_of_the_file_is_gone_on_with(
    bus: EventBus, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(CSVLog(path))
    loop = start(bus)
    for epoch in (1, 2, 3):  # as an editor saves, or a file system that numbers its files anew
        finish_epochs(loop, epoch, epoch)
        copy = path.with_name("copy")
        copy.write_bytes(path.read_bytes())
        copy.replace(path)
    assert epochs_of(path) == [1, 2, 3]
    assert list(path.parent.iterdir()) == [path]
    assert not caplog.records


@pytest.mark.parametrize("numbers", [count(1), repeat(0)], ids=["another each time", "none"])
def test_a_file_system_that_does_not_number_its_files_is_written_to_as_any_other(
    bus: EventBus, path: Path, monkeypatch: pytest.MonkeyPatch, numbers: Iterator[int]
) -> None:
    monkeypatch.setattr(Mark, "of", lambda status: Mark(0, next(numbers), status.st_size))
    bus.attach(CSVLog(path))
    bus.attach(JSONLLog(path.with_name("run.jsonl")))
    loop = start(bus)
    finish_epochs(loop, 1, 2)
    finish_epochs(loop, 3, 4, val_loss=0.5)
    assert epochs_of(path) == [1, 2, 3, 4]
    assert len(JSONLLog.read(path.with_name("run.jsonl"))) == 5
    assert len(list(path.parent.iterdir())) == 2


def test_a_link_to_a_file_that_is_to_be_made_is_followed(bus: EventBus, path: Path) -> None:
    target = path.with_name("elsewhere.csv")
    path.symlink_to(target)
    bus.attach(CSVLog(path))
    loop = start(bus)
    finish_epochs(loop, 1, 1)
    finish_epochs(loop, 2, 2, val_loss=0.5)
    assert epochs_of(target) == [1, 2]
    assert path.is_symlink()


# -- whatever kills the process

WRITES_FOREVER = """
import sys
from eventbus import EventBus
from eventbus.handlers import CSVLog
bus = EventBus(strict=True)
bus.attach(CSVLog(sys.argv[1]))
for epoch in range(1, 10**9):
    metrics = {"loss": 1 / epoch, **{f"metric {n}": epoch / 7 for n in range(5 + epoch // 20)}}
    bus.emit("epoch_finished", epoch=epoch, step=epoch, metrics=metrics)
    if epoch == 30:
        print("written", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="kills with a signal")
def test_a_killed_process_leaves_complete_rows_only(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITES_FOREVER, path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child, child.stdout:
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
    content, columns = path.read_bytes(), len(rows_of(path)[0])
    assert content.endswith(b"\n")
    assert {line.count(b",") + 1 for line in content.splitlines()} == {columns}
    assert epochs_of(path) == list(range(1, len(rows_of(path)) + 1))


WRITES_TO_A_FULL_DISK = """
import resource, signal, sys
from eventbus import EventBus
from eventbus.handlers import CSVLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
bus = EventBus()
bus.attach(CSVLog(sys.argv[1]))
for epoch in range(1, 100):
    bus.emit("epoch_finished", epoch=epoch, step=10 * epoch, metrics={"loss": 1.0})
"""


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files")
def test_a_row_that_finds_no_room_is_taken_back_and_training_goes_on(path: Path) -> None:
    child = run_child(WRITES_TO_A_FULL_DISK, path)
    assert child.returncode == 0
    assert "metrics.csv" in child.stderr
    assert path.read_bytes().endswith(b"\n")
    assert epochs_of(path) == list(range(1, len(rows_of(path)) + 1)) != []


def test_a_link_to_the_standard_output_is_left_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "shown").write_text("what a shell has redirected")
    link = tmp_path / "out.csv"
    with (tmp_path / "shown").open() as shown:
        link.symlink_to(f"/proc/self/fd/{shown.fileno()}")
        bus = EventBus(strict=True)
        bus.attach(CSVLog(link, on="epoch_finished"))
        with pytest.raises(FileExistsError, match="no file of its own: ConsoleLog prints"):
            play(bus, scripted_run(epochs=1, steps=1))
    assert link.is_symlink()
