"""JSONLLog: valid JSON whatever comes, complete lines, and resuming."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from eventbus import EventBus, every
from eventbus.handlers import JSONLLog
from eventbus.loops import Run

from .reporting import Clock, finish_epochs, resume, start

NOT_NUMBERS = {"NaN", "Infinity", "-Infinity"}


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read strictly: the constants that Python allows and JSON does not are refused."""
    return [json.loads(line, parse_constant=refuse) for line in path.read_bytes().splitlines()]


def epochs_of(path: Path) -> list[int]:
    lines = JSONLLog.read(path)
    return [line["epoch"] for line in lines if line["signal"] == "epoch_finished"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


def test_a_line_says_when_which_run_which_signal_and_its_fields(bus: EventBus, path: Path) -> None:
    bus.attach(JSONLLog(path, on="epoch_finished", clock=Clock(1.5)))
    start(bus, run_id="digits").emit("epoch_finished", epoch=1, step=10, metrics={"loss": 0.5})
    assert lines_of(path) == [
        {
            "time": "1970-01-01T00:00:01.500Z",
            "run_id": "digits",
            "signal": "epoch_finished",
            "sender": "train",
            "epoch": 1,
            "step": 10,
            "metrics": {"loss": 0.5},
        }
    ]


def test_a_run_is_told_from_its_start_to_its_end(bus: EventBus, path: Path) -> None:
    bus.attach(JSONLLog(path))
    loop = start(bus, epochs=1)
    finish_epochs(loop, 1, 1)
    loop.emit("checkpoint_saved", path="runs/one", epoch=1, step=10)
    loop.emit("run_failed", exception=ValueError("bad"), epoch=1, step=10)
    loop.emit("run_closed", outcome="failed")
    lines = lines_of(path)
    assert [line["signal"] for line in lines] == [
        "run_started",
        "epoch_finished",
        "checkpoint_saved",
        "run_failed",
    ]
    assert lines[0]["epochs"] == 1
    assert lines[2]["path"] == "runs/one"
    assert lines[3]["exception"] == "ValueError: bad"


def test_a_batch_that_was_skipped_is_told(bus: EventBus, path: Path) -> None:
    bus.attach(JSONLLog(path))
    start(bus).emit("batch_skipped", epoch=1, step=4, reason="loss is nan")
    told = lines_of(path)[-1]
    assert (told["signal"], told["step"], told["reason"]) == ("batch_skipped", 4, "loss is nan")


def test_the_start_of_a_run_tells_its_config(bus: EventBus, path: Path) -> None:
    bus.attach(JSONLLog(path))
    config = {"lr": 0.1, "model": {"width": 64}, "limit": math.inf, "loss": torch.nn.MSELoss()}
    with Run(bus, config=config):
        pass
    first, last = lines_of(path)
    assert first["config"] == {
        "lr": 0.1,
        "model": {"width": 64},
        "limit": "Infinity",
        "loss": "MSELoss()",
    }
    assert "config" not in last


class MuteError(Exception):
    """One that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no text")


def test_a_failure_that_cannot_say_what_it_is_is_told(bus: EventBus, path: Path) -> None:
    bus.attach(JSONLLog(path))
    start(bus).emit("run_failed", exception=MuteError())
    assert lines_of(path)[-1]["exception"] == "MuteError: <its __str__ raises>"


def test_nan_and_infinities_are_strings_in_the_file_and_numbers_again_when_read(
    bus: EventBus, path: Path
) -> None:
    bus.attach(JSONLLog(path, on="epoch_finished"))
    metrics = {"a": math.nan, "b": math.inf, "c": torch.tensor(-math.inf)}
    start(bus).emit("epoch_finished", epoch=1, step=1, metrics=metrics)
    assert lines_of(path)[0]["metrics"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}
    assert repr(JSONLLog.read(path)[0]["metrics"]) == "{'a': nan, 'b': inf, 'c': -inf}"


@given(
    metrics=st.dictionaries(st.text(), st.floats() | st.integers() | st.booleans()),
    text=st.text(st.characters()).filter(lambda text: text not in NOT_NUMBERS),
)
@example(metrics={"\udc80": 1.0, "\n": math.nan}, text="\udc80\u2028\n")
def test_any_metrics_and_text_survive_as_valid_json(
    tmp_path_factory: pytest.TempPathFactory, metrics: dict[str, float], text: str
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "run.jsonl"
    bus = EventBus(strict=True)
    bus.attach(JSONLLog(path, on="epoch_interrupted"))
    start(bus).emit("epoch_interrupted", epoch=1, step=1, reason=text, metrics=metrics)
    assert len(lines_of(path)) == 1
    (read,) = JSONLLog.read(path)
    assert repr(read["metrics"]) == repr(metrics)
    assert read["reason"] == text


def test_data_is_left_out(bus: EventBus, path: Path) -> None:
    bus.attach(JSONLLog(path, on="batch_finished"))
    start(bus).emit(
        "batch_finished",
        epoch=1,
        step=1,
        batch=[1, 2, 3],
        outputs=torch.zeros(4),
        loss=torch.tensor(0.5),
    )
    (line,) = lines_of(path)
    assert line["loss"] == 0.5
    assert not line.keys() & {"batch", "outputs"}


def test_plain_containers_and_paths_of_a_users_signal_are_kept(path: Path) -> None:
    bus = EventBus()
    bus.attach(JSONLLog(path, on="sample_drawn"))
    bus.emit("sample_drawn", sizes=(1, [2]), where=Path("a") / "b", other=object(), model_name=None)
    (line,) = lines_of(path)
    assert line["sizes"] == [1, [2]]
    assert line["where"] == str(Path("a") / "b")
    assert not line.keys() & {"other", "model_name"}


def test_a_list_that_holds_itself_ends(path: Path) -> None:
    bus = EventBus()
    bus.attach(JSONLLog(path, on="sample_drawn"))
    endless: list[Any] = [1]
    endless.append(endless)
    bus.emit("sample_drawn", sizes=endless)
    assert len(lines_of(path)) == 1


def test_only_what_is_due_is_written(bus: EventBus, path: Path) -> None:
    bus.attach(JSONLLog(path, on="epoch_finished", when=every(2)))
    finish_epochs(start(bus), 1, 5)
    assert epochs_of(path) == [2, 4]


def test_rows_before_the_start_of_a_fresh_run_go_into_its_file(bus: EventBus, path: Path) -> None:
    bus.attach(JSONLLog(path, on=("run_opened", "stop_requested", "run_started")))
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    loop.emit("stop_requested", reason="early")
    assert not path.exists()
    loop.emit("run_started")
    signals = [line["signal"] for line in lines_of(path)]
    assert sorted(signals) == ["run_opened", "run_started", "stop_requested"]
    assert list(path.parent.iterdir()) == [path]


def test_rows_of_a_run_that_never_starts_are_written_when_it_is_closed(
    bus: EventBus, path: Path
) -> None:
    bus.attach(JSONLLog(path))
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    loop.emit("run_failed", exception=OSError("no such checkpoint"))
    loop.emit("run_closed", outcome="failed")
    assert [line["signal"] for line in lines_of(path)] == ["run_failed"]


def test_lines_after_the_checkpoint_are_dropped_on_resume_as_often_as_it_happens(
    bus: EventBus, path: Path
) -> None:
    bus.attach(JSONLLog(path))
    loop = start(bus)
    finish_epochs(loop, 1, 2)
    state = dict(bus.emit("state_requested").state)
    finish_epochs(loop, 3, 5)
    for last in (4, 3):
        again = EventBus(strict=True)
        again.attach(JSONLLog(path))
        finish_epochs(resume(again, state), 3, last)
        assert epochs_of(path) == list(range(1, last + 1))
    assert [line["signal"] for line in lines_of(path)].count("run_started") == 2


def test_a_logger_attached_after_the_restore_still_goes_on(bus: EventBus, path: Path) -> None:
    bus.attach(JSONLLog(path))
    finish_epochs(start(bus), 1, 2)
    state = dict(bus.emit("state_requested").state)
    again = EventBus(strict=True)
    loop = resume(again, state)
    again.attach(JSONLLog(path))
    finish_epochs(loop, 3, 3)
    assert epochs_of(path) == [1, 2, 3]


def test_a_new_run_keeps_the_file_of_the_run_before(bus: EventBus, path: Path) -> None:
    bus.attach(JSONLLog(path))
    finish_epochs(start(bus), 1, 1)
    finish_epochs(start(bus, run_id="two"), 1, 2)
    assert epochs_of(path.with_name("run.1.jsonl")) == [1]
    assert epochs_of(path) == [1, 2]


def test_a_run_that_fails_as_it_is_opened_is_not_in_the_file_of_the_run_before(
    bus: EventBus, path: Path
) -> None:
    fails: list[bool] = []

    @bus.on("run_opened")
    def restore() -> None:
        if fails:
            raise OSError("no such checkpoint")

    bus.attach(JSONLLog(path))
    for name in ("first", "second"):
        with suppress(OSError), Run(bus, run_id=name):
            pass
        fails.append(True)
    assert {line["run_id"] for line in lines_of(path.with_name("run.1.jsonl"))} == {"first"}
    assert [(line["run_id"], line["signal"]) for line in lines_of(path)] == [
        ("second", "run_failed")
    ]


@pytest.mark.parametrize("tail", [b'{"signal": "epoch_fin', b"\0\0\0\0", b"{}"])
def test_a_torn_last_line_is_not_read(bus: EventBus, path: Path, tail: bytes) -> None:
    bus.attach(JSONLLog(path))
    finish_epochs(start(bus), 1, 2)
    with path.open("ab") as file:
        file.write(tail)
    assert epochs_of(path) == [1, 2]


def test_two_runs_in_one_place_keep_their_lines_apart(
    bus: EventBus, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(JSONLLog(path, on="epoch_finished"))
    loop = start(bus)
    finish_epochs(loop, 1, 1)
    other = EventBus(strict=True)
    other.attach(JSONLLog(path, on="epoch_finished"))
    theirs = start(other, run_id="other")
    for epoch in (2, 3):
        finish_epochs(theirs, epoch, epoch)
        finish_epochs(loop, epoch, epoch)
    assert epochs_of(path) == [2, 3]
    assert epochs_of(path.with_name("run.1.jsonl")) == [1, 2, 3]
    assert [each.levelname for each in caplog.records].count("WARNING") == 1


def test_a_folder_that_goes_away_is_made_again_and_resumed(
    bus: EventBus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run" / "run.jsonl"
    bus.attach(JSONLLog(path, on="epoch_finished"))
    loop = start(bus)
    finish_epochs(loop, 1, 2)
    path.parent.rename(tmp_path / "elsewhere")
    finish_epochs(loop, 3, 4)
    state = dict(bus.emit("state_requested").state)
    finish_epochs(loop, 5, 5)
    assert caplog.text.count("is gone: a new one is begun") == 1
    again = EventBus(strict=True)
    again.attach(JSONLLog(path, on="epoch_finished"))
    finish_epochs(resume(again, state), 5, 6)
    assert epochs_of(path) == [3, 4, 5, 6]


@pytest.mark.parametrize("broken", ["not JSON", "[1]"])
def test_a_broken_line_before_the_last_is_an_error_that_says_where(path: Path, broken: str) -> None:
    path.write_text(f'{{"a": 1}}\n{broken}\n{{"a": 2}}\n')
    with pytest.raises(ValueError, match="line 2"):
        JSONLLog.read(path)


WRITES_FOREVER = """
import sys
from contextlib import suppress
from eventbus import EventBus
from eventbus.handlers import JSONLLog
from eventbus.loops import Run
bus = EventBus(strict=True)
bus.attach(JSONLLog(sys.argv[1], on="epoch_finished"))
metrics = {f"metric {n}": n / 7 for n in range(5)}
for epoch in range(1, 10**9):
    bus.emit("epoch_finished", epoch=epoch, step=epoch, metrics=metrics)
    if epoch == 30:
        print("written", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="kills with a signal")
def test_a_killed_process_leaves_complete_lines_only(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITES_FOREVER, path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child, child.stdout:
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert path.read_bytes().endswith(b"\n")
    assert epochs_of(path) == list(range(1, len(lines_of(path)) + 1))


LEAVES_AT_ONCE = """
import os, sys
from eventbus import EventBus
from eventbus.handlers import JSONLLog
from eventbus.loops import Run
bus = EventBus(strict=True)
bus.attach(JSONLLog(sys.argv[1], on="epoch_finished"))
@bus.on("epoch_finished", priority=-1000)
def leave(epoch):
    if epoch == 3:
        os._exit(9)
for epoch in range(1, 10):
    bus.emit("epoch_finished", epoch=epoch, step=epoch)
"""


def test_a_process_that_leaves_at_once_has_written_what_it_emitted(path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", LEAVES_AT_ONCE, path], timeout=60, check=False)
    assert child.returncode == 9
    assert epochs_of(path) == [1, 2, 3]


def test_fields_are_in_their_declared_order_whether_the_emission_was_compiled_or_not(
    bus: EventBus, path: Path
) -> None:
    bus.attach(JSONLLog(path, on="batch_finished", clock=lambda: 0.0))
    loop = start(bus)
    for step in range(1, 40):  # by the end it is
        loop.emit("batch_finished", batch_size=2, loss=0.5, step=step, epoch=1)
    orders = {tuple(row) for row in JSONLLog.read(path)}
    assert orders == {("time", "run_id", "signal", "sender", "epoch", "step", "loss", "batch_size")}
