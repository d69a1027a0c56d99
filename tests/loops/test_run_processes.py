"""A Run that comes along into a DataLoader's worker is harmless there."""

from __future__ import annotations

import pickle

import pytest
from torch.utils.data import DataLoader, Dataset

from eventbus import EventBus
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
        return place


def test_a_run_in_a_forked_worker_emits_nothing(bus: EventBus, transcript: Transcript) -> None:
    @bus.on("text_written")
    def fail() -> None:
        raise AssertionError("a handler was called in a worker")

    with Run(bus) as run:
        loader = DataLoader(Holding(run), num_workers=1, multiprocessing_context="fork")
        for batch in run.batches(loader):
            run.report(value=batch.float().mean())
    assert run.step == 2
    assert "text_written" not in transcript.names


def test_a_run_unpickles_to_one_that_is_not_open_on_a_bus_that_calls_nobody(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus, name="digits") as run:
        next(run.batches([1]))
        pickled = pickle.dumps(run)
    copy = pickle.loads(pickled)
    assert copy.outcome is None
    assert copy.bus.inert
    with pytest.raises(RuntimeError, match="open the Run first"):
        copy.report(loss=1.0)
