"""WandB with the real client, offline: what is in its file, how it ends, and that nothing hangs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, every
from eventbus.handlers import WandB

from .postbox import silent_server
from .reporting import CountedMetrics, finish_epochs, resume, start

wandb = pytest.importorskip("wandb")

LONG_S = 60.0  # a test that waits for so long has failed
_BLOCK, _HEADER = 32768, 7  # bytes; LevelDB's log format, which the client's file has


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


# -- reading the client's file


@dataclass
class Filed:
    """What the file of one run holds."""

    run_id: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None

    def curve(self, tag: str) -> list[tuple[int, Any]]:
        return [(step, row[tag]) for step, row in sorted(self.rows.items()) if tag in row]


def records(path: Path) -> Iterator[bytes]:
    content, position, record = path.read_bytes(), _HEADER, b""
    while position + _HEADER <= len(content):
        room = _BLOCK - position % _BLOCK
        if room < _HEADER:
            position += room
            continue
        size = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        record += content[position + _HEADER : position + _HEADER + size]
        position += _HEADER + size
        if kind in (1, 4):  # full, last
            yield record
            record = b""


def read(path: Path) -> Filed:
    protocol: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    filed = Filed()
    for raw in records(path):
        record = protocol.Record()
        record.ParseFromString(raw)
        _take(filed, record)
    return filed


def _take(filed: Filed, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        filed.run_id, filed.project = record.run.run_id, record.run.project
        filed.config |= values_of(record.run.config.update)
    elif kind == "history":
        row = values_of(record.history.item)
        filed.rows.setdefault(record.history.step.num, {}).update(row)
    elif kind == "summary":
        filed.summary |= values_of(record.summary.update)
    elif kind == "exit":
        filed.exit_code = record.exit.exit_code


def values_of(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def runs(folder: Path) -> list[Filed]:
    """Read the files of all runs, in the order in which they were begun.

    The client's own process may write the last records when the run is finished already.
    """
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        found = [read(path) for path in sorted(folder.rglob("*.wandb"), key=_begun)]
        if all(filed.exit_code is not None for filed in found):
            return found
    raise AssertionError("the client has not written the end of each run")


def _begun(path: Path) -> float:
    return (path.parent / "logs" / "debug.log").stat().st_ctime


def run_of(folder: Path) -> Filed:
    (filed,) = runs(folder)
    return filed


def finish_steps(loop: Any, first: int, last: int) -> None:
    for step in range(first, last + 1):
        loop.emit("batch_finished", epoch=1, step=step, metrics={"loss": 1 / step})


def close(loop: Any, outcome: str = "completed") -> None:
    loop.emit("run_closed", outcome=outcome)


# -- what is filed


def test_config_curves_and_summary_are_in_the_clients_file(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(WandB("digits", dir=tmp_path, when=every(2)))
    loop = bus.bind(sender="train", config={"lr": 0.1, "model": {"width": 64}})
    loop.emit("run_opened")
    loop.emit("run_started")
    finish_steps(loop, 1, 4)
    loop.emit("learning_rate_changed", step=4, learning_rates={"default": 0.5})
    loop.emit("metrics_measured", metrics={"gradient_norm": 2.0}, step=4)
    done = {"val_loss": 0.125}
    loop.emit("validation_done", name="val", round=1, epoch=1, step=4, metrics=done)
    loop.emit("epoch_finished", epoch=1, step=4, metrics={"loss": 0.5, "val_loss": 0.125})
    last = {"loss": 0.5, "val_loss": 0.125}
    loop.emit("run_finished", reason="enough", epoch=1, step=4, metrics=last)
    close(loop, "stopped")
    filed = run_of(tmp_path)
    assert filed.project == "digits"
    assert filed.config["lr"] == 0.1
    assert filed.config["model"] == {"width": 64}
    assert filed.curve("step/loss") == [(2, 0.5), (4, 0.25)]
    assert {tag: filed.rows[4][tag] for tag in filed.rows[4] if "/" in tag} == {
        "step/loss": 0.25,
        "learning_rate/default": 0.5,
        "measured/gradient_norm": 2.0,
        "validation/val_loss": 0.125,
        "epoch/loss": 0.5,
        "epoch/val_loss": 0.125,
    }
    assert filed.summary["val_loss"] == 0.125
    assert filed.summary["reason"] == "enough"
    assert filed.summary["outcome"] == "stopped"
    assert filed.exit_code == 0


def test_a_failed_run_is_filed_as_failed_with_its_exception(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(WandB(dir=tmp_path))
    loop = start(bus)
    loop.emit("run_failed", exception=ValueError("the loss is NaN"), epoch=1, step=1)
    close(loop, "failed")
    filed = run_of(tmp_path)
    assert filed.exit_code == 1
    assert filed.summary["exception"] == "ValueError: the loss is NaN"
    assert filed.summary["outcome"] == "failed"


def test_pictures_and_texts_are_files_of_the_run(bus: EventBus, tmp_path: Path) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(2, 1), dpi=50)
    bus.attach(WandB(dir=tmp_path))
    loop = start(bus)
    loop.emit("figure_drawn", tag="confusion", figure=figure, step=3)
    loop.emit("text_written", tag="sample", text="to <be>\n\ud800", step=3)
    close(loop)
    row = run_of(tmp_path).rows[3]
    assert (row["confusion/width"], row["confusion/height"]) == (100, 50)
    (picture,) = tmp_path.rglob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    (page,) = tmp_path.rglob("*.html")
    assert "<pre>to &lt;be&gt;\n\\ud800</pre>" in page.read_text()
    assert row["sample/_type"] == "html-file"


def test_a_step_that_is_not_due_has_no_metric_read(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(WandB(dir=tmp_path, when=every(4)))
    loop, metrics = start(bus), CountedMetrics(loss=0.5)
    for step in range(1, 4):
        loop.emit("batch_finished", epoch=1, step=step, metrics=metrics)
    assert metrics.reads == 0
    loop.emit("batch_finished", epoch=1, step=4, metrics=metrics)
    close(loop)
    assert run_of(tmp_path).curve("step/loss") == [(4, 0.5)]


def test_a_loop_that_only_emits_steps_is_filed_too(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(WandB(dir=tmp_path, when=every(1), config={"seed": 7}))
    finish_steps(bus, 1, 3)
    bus.emit("run_closed", outcome="completed")
    filed = run_of(tmp_path)
    assert [step for step, _ in filed.curve("step/loss")] == [1, 2, 3]
    assert filed.config["seed"] == 7


def test_other_ranks_file_nothing(
    bus: EventBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    handler = WandB(dir=tmp_path, when=every(1))
    bus.attach(handler)
    loop = start(bus)
    finish_steps(loop, 1, 2)
    finish_epochs(loop, 1, 1)
    close(loop)
    assert handler.run is None
    assert list(tmp_path.iterdir()) == []


# -- runs after each other


def test_runs_after_each_other_are_runs_of_their_own(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(WandB(dir=tmp_path, when=every(1)))
    for last in (1, 2):
        loop = start(bus)
        finish_steps(loop, 1, last)
        close(loop)
    first, second = runs(tmp_path)
    assert first.run_id != second.run_id
    assert (len(first.rows), len(second.rows)) == (1, 2)


def test_a_run_that_was_never_closed_is_filed_as_failed_when_the_next_begins(
    bus: EventBus, tmp_path: Path
) -> None:
    handler = WandB(dir=tmp_path, when=every(1))
    bus.attach(handler)
    finish_steps(start(bus), 1, 1)
    left = handler._session
    loop = start(bus)
    close(loop)
    assert left is not None
    assert left._outbox.close(LONG_S) == 0
    assert sorted(str(filed.exit_code) for filed in runs(tmp_path)) == ["0", "1"]


def test_a_users_own_run_is_left_alone(bus: EventBus, tmp_path: Path) -> None:
    own = wandb.init(mode="offline", dir=tmp_path, settings={"console": "off"})
    bus.attach(WandB(dir=tmp_path, when=every(1)))
    loop = start(bus)
    finish_steps(loop, 1, 2)
    close(loop)
    own.log({"mine": 1.0}, step=9)
    own.finish()
    assert sorted(len(filed.rows) for filed in runs(tmp_path)) == [1, 2]


def test_a_resumed_run_goes_on_under_its_id(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(WandB(dir=tmp_path, when=every(1)))
    loop = start(bus)
    finish_steps(loop, 1, 2)
    state = dict(bus.emit("state_requested").state)
    close(loop)
    again = EventBus(strict=True)
    again.attach(WandB(dir=tmp_path, when=every(1)))
    loop = resume(again, state)
    finish_steps(loop, 3, 4)
    close(loop)
    first, second = runs(tmp_path)
    assert first.run_id == second.run_id == state["WandB"]["id"]
    assert [step for step, _ in second.curve("step/loss")] == [3, 4]


def test_a_resumed_run_that_was_saved_without_it_is_a_run_of_its_own(
    bus: EventBus, tmp_path: Path
) -> None:
    bus.attach(WandB(dir=tmp_path, when=every(1)))
    for begin in (start, partial(resume, state={"loop": {"epoch": 1}}, run_id="two")):
        loop = begin(bus)
        finish_steps(loop, 1, 2)
        close(loop)
    first, second = runs(tmp_path)
    assert first.run_id != second.run_id


def test_a_handler_attached_after_the_restore_still_goes_on(bus: EventBus, tmp_path: Path) -> None:
    again = EventBus(strict=True)
    loop = resume(again, {"WandB": {"id": "abcd1234", "last_step": 7}})
    handler = WandB(dir=tmp_path)
    again.attach(handler)
    loop.emit("metrics_measured", metrics={"rate": 1.0})
    close(loop)
    filed = run_of(tmp_path)
    assert (filed.run_id, filed.curve("measured/rate")) == ("abcd1234", [(7, 1.0)])


# -- failures


def test_an_error_of_the_client_is_told_once_and_training_goes_on(tmp_path: Path) -> None:
    bus = EventBus()
    failed: list[str] = []
    bus.on("handler_failed")(lambda exception: failed.append(str(exception)))
    bus.attach(WandB(dir=tmp_path, when=every(1), mode="no such mode"))
    loop = start(bus)
    finish_steps(loop, 1, 5)
    close(loop)
    assert len(failed) == 1
    assert "no such mode" in failed[0]
    assert runs(tmp_path) == []


def test_an_unknown_setting_is_an_error_that_is_told(tmp_path: Path) -> None:
    bus = EventBus(strict=True)
    bus.attach(WandB(dir=tmp_path, settings={"no_such_setting": 1}))
    with pytest.raises(ValueError, match="no_such_setting"):
        start(bus)


HANGS = """
import json, os, sys, time
os.environ.update(WANDB_BASE_URL=sys.argv[1], WANDB_API_KEY="a" * 40, WANDB_MODE="online")
from eventbus import EventBus, every
from eventbus.handlers import WandB
bus, failed = EventBus(), []
bus.on("handler_failed")(lambda exception: failed.append(str(exception)))
bus.attach(WandB("p", when=every(1), timeout_s=0.2))
loop = bus.bind(sender="train")
loop.emit("run_opened")
loop.emit("run_started")
for step in range(1, 2000):
    loop.emit("batch_finished", epoch=1, step=step, metrics={"loss": 1 / step})
loop.emit("run_closed", outcome="completed")
print(json.dumps(failed))
"""


@pytest.mark.timeout(100)
def test_a_server_that_hangs_delays_neither_the_loop_nor_the_end_of_the_process(
    tmp_path: Path,
) -> None:
    with silent_server() as port:
        command = [sys.executable, "-c", HANGS, f"http://127.0.0.1:{port}"]
        child = subprocess.run(  # the client itself would wait for 90 s
            command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
        )
    assert child.returncode == 0
    (reason,) = json.loads(child.stdout)
    assert reason.startswith("wandb has not finished within 0.2 s")


def test_nothing_of_the_process_is_captured_and_no_thread_of_ours_is_left(
    bus: EventBus, tmp_path: Path
) -> None:
    bus.attach(WandB(dir=tmp_path, when=every(1)))
    out, write = sys.stdout, sys.stdout.write
    loop = start(bus)
    finish_steps(loop, 1, 3)
    assert (sys.stdout, sys.stdout.write) == (out, write)
    close(loop)
    assert [each for each in threading.enumerate() if each.name == "WandB"] == []


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s is a positive number"):
        WandB(timeout_s=timeout_s)


def test_without_the_library_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['wandb'] = None\n"
    code += "from eventbus.handlers import WandB; WandB()"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    last = child.stderr.splitlines()[-1]
    assert last == "ImportError: WandB needs wandb: pip install 'training-eventbus[wandb]'"
