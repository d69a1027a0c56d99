"""A Run that comes along into a DataLoader's worker is harmless there."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from eventbus import EventBus, Stop
from eventbus.loops import Run

from .transcripts import Transcript


class Holding(Dataset[int]):
    """Two samples, and a Run that came along."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> int:
        self.run.bus.emit("text_written", tag="worker", text="hello")
        answers = self.run.emit("text_written", tag="worker", text="hello")
        assert not answers.pending
        self.run.report(place=place, loss="of no kind")  # the second one would be a repeated key
        self.run.skip("nothing is under way")
        assert self.run.transform("batch_loaded", place) == place
        return place


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_run_in_a_worker_is_inert(
    bus: EventBus, transcript: Transcript, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process that is not forked imports this file by its name.
    monkeypatch.syspath_prepend(Path(__file__).parents[2])

    @bus.on("text_written")
    def fail() -> None:
        raise AssertionError("a handler was called in a worker")

    with Run(bus) as run:
        loader = DataLoader(Holding(run), num_workers=1, multiprocessing_context=method)
        for batch in run.batches(loader):
            run.report(value=batch.float().mean())
    assert run.step == 2
    assert "text_written" not in transcript.names
    assert set(run.metrics) == {"value"}


def test_a_stop_that_is_pending_stays_behind_when_a_worker_is_forked(bus: EventBus) -> None:
    with Run(bus) as run:
        bus.answer(Stop("soon"), runs="all")
        loader = DataLoader(Holding(run), num_workers=1, multiprocessing_context="fork")
        assert [int(place) for place in loader] == [0, 1]
    assert run.outcome == "stopped"


def test_an_open_run_unpickles_to_one_that_calls_nobody(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    with Run(bus, name="digits") as run:
        next(run.batches([1]))
        copy = pickle.loads(pickle.dumps(run))
        run.report(loss=1.0)
    assert (copy.name, copy.bus.inert, copy.outcome, copy.stop) == ("digits", True, None, None)
    copy.report(loss=1.0)
    copy.report(loss=2.0)
    assert list(copy.epochs(2)) == [1, 2]
    assert list(copy.batches("ab")) == ["a", "b"]
    assert dict(copy.metrics) == {}
    assert pickle.loads(pickle.dumps(copy)).name == "digits"
    assert caplog.messages == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_read_what_was_known_of_the_run(bus: EventBus) -> None:
    with Run(bus) as run:
        for _ in run.batches([1, 2, 3]):
            run.report(loss=float(run.step))
            if run.step == 3:
                break
        assert in_a_child(lambda: run.step == 3 and run.metrics["loss"] == 2.0)


def in_a_child(holds: Callable[[], bool]) -> bool:
    child = os.fork()
    if child == 0:
        os._exit(0 if holds() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_run_that_is_not_open_says_so_elsewhere_too(bus: EventBus) -> None:
    copy = pickle.loads(pickle.dumps(Run(bus)))
    with pytest.raises(RuntimeError, match="open the Run first"):
        copy.report(loss=1.0)
    with copy:
        assert list(copy.epochs(1)) == [1]
    assert copy.outcome == "completed"


def test_a_run_that_is_opened_on_a_bus_of_another_process_says_that_nobody_hears_it(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = pickle.loads(pickle.dumps(bus))
    for _ in range(2):
        with Run(elsewhere) as run:
            assert list(run.epochs(1)) == [1]
        assert run.outcome == "completed"
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "this bus calls nobody"
    ]
