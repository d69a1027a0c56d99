"""A relative path is looked up from where the handler was made, wherever the process goes later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, every
from eventbus.handlers import Checkpoint, CSVLog, JSONLLog, Plot, TensorBoard
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
