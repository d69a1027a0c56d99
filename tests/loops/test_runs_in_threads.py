"""Runs in several threads: each on a bus of its own; and one run that several threads work on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from eventbus import EventBus
from eventbus.loops import Run
from eventbus.loops._counts import Counts
from eventbus.loops._run_span import RunSpan

from .transcripts import Transcript

MEANWHILE = (
    "run 'a' is open on this bus in thread 'worker_0': make a bus for each of several Runs at a "
    "time, with handlers of its own"
)


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Call a function in another thread, always the same one; return or raise what it does."""
    with ThreadPoolExecutor(1, thread_name_prefix="worker") as pool:
        yield lambda task: pool.submit(task).result(timeout=60)


Elsewhere = Callable[[Callable[[], Any]], Any]


def train(bus: EventBus, name: str) -> Run:
    with Run(bus, name=name) as run:
        for _ in run.epochs(1):
            for _ in run.batches([1, 2]):
                run.report(loss=1.0)
    return run


def test_a_run_is_refused_while_another_thread_has_one_open(
    bus: EventBus, transcript: Transcript, elsewhere: Elsewhere
) -> None:
    elsewhere(Run(bus, name="a").__enter__)
    before = list(transcript.names)
    with pytest.raises(RuntimeError) as refused:
        train(bus, "b")
    assert str(refused.value) == MEANWHILE
    assert transcript.names == before


def test_the_run_that_was_there_first_goes_on_and_then_the_bus_is_free(
    bus: EventBus, transcript: Transcript, elsewhere: Elsewhere
) -> None:
    with Run(bus, name="a") as run:
        with pytest.raises(RuntimeError, match="make a bus for each"):
            elsewhere(lambda: train(bus, "b"))
        for _ in run.batches([1, 2]):
            run.report(loss=1.0)
    assert (run.outcome, run.step) == ("completed", 2)
    assert elsewhere(lambda: train(bus, "b")).outcome == "completed"
    assert transcript.names.count("run_closed") == 2


def test_of_two_runs_that_have_both_found_the_bus_free_one_opens(
    bus: EventBus, transcript: Transcript, elsewhere: Elsewhere
) -> None:
    first = elsewhere(lambda: RunSpan(bus, "a", {}, Counts()))
    second = RunSpan(bus, "b", {}, Counts())
    elsewhere(lambda: first.open({}))
    with pytest.raises(RuntimeError) as refused:
        second.open({})
    assert str(refused.value) == MEANWHILE
    assert [emitter.sender for emitter in bus.open_runs] == ["a"]
    assert transcript.names == ["run_opened"]


def test_threads_with_a_bus_each_train_side_by_side() -> None:
    inside = threading.Barrier(2)

    def task(name: str) -> list[str]:
        bus, heard = EventBus(), []
        bus.on("epoch_finished")(lambda run: heard.append(run))
        bus.once("batch_started")(lambda: inside.wait(timeout=60))
        train(bus, name)
        return heard

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(task, "ab")) == [["a"], ["b"]]


# -- one run, several threads


def report(run: Run) -> list[int]:
    run.report(loss=1.0)
    return [1]


WORK: dict[str, Callable[[Run], Any]] = {
    "epochs": lambda run: run.epochs(1),
    "batches": lambda run: run.batches([1]),
    "steps": lambda run: run.steps(1),
    "validate": lambda run: run.validate([1]),
    "report": report,
}


@pytest.mark.parametrize("work", WORK)
def test_a_run_is_opened_in_one_thread_and_worked_on_in_another(
    bus: EventBus, elsewhere: Elsewhere, work: str
) -> None:
    """What the thread that works on it opens is inside it, as ever."""
    heard: list[str] = []
    bus.on("epoch_finished", sender="inner")(lambda run: heard.append(run))

    def body(run: Run) -> None:
        for _ in WORK[work](run):
            train(bus, "inner")

    with Run(bus) as run:
        if work != "report":
            run.report(opened=1.0)  # the run is started here, too
        elsewhere(lambda: body(run))
    assert heard == ["inner"]
    assert run.outcome == "completed"


def test_a_run_that_is_worked_on_elsewhere_is_closed_where_it_was_opened(
    bus: EventBus, elsewhere: Elsewhere
) -> None:
    with Run(bus, name="a") as run:
        elsewhere(lambda: list(run.batches([1, 2])))
    assert bus.open_runs == ()
    assert train(bus, "b").outcome == "completed"


def test_a_run_that_a_dead_thread_has_left_open_keeps_nobody_from_opening_one(
    bus: EventBus,
) -> None:
    thread = threading.Thread(target=Run(bus, name="a").__enter__)
    thread.start()
    thread.join()
    heard: list[str] = []
    bus.on("epoch_finished", sender="b")(lambda run: heard.append(run))
    train(bus, "b")  # inside it, as after a crash in this thread
    assert heard == ["b"]


def test_a_run_whose_ranks_do_not_meet_leaves_the_bus_free(
    bus: EventBus, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ConnectionError("no other rank is there")

    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", fail)
        with pytest.raises(ConnectionError):
            Run(bus).__enter__()
    assert elsewhere(lambda: train(bus, "b")).outcome == "completed"


def test_a_run_is_refused_while_a_loop_by_hand_has_one_open_in_another_thread(
    bus: EventBus, elsewhere: Elsewhere
) -> None:
    loop = bus.bind(sender="a")
    elsewhere(lambda: loop.emit("run_opened"))
    with pytest.raises(RuntimeError) as refused:
        train(bus, "b")
    assert str(refused.value) == MEANWHILE
    elsewhere(lambda: loop.emit("run_closed", outcome="completed"))
    assert train(bus, "b").outcome == "completed"


def test_a_run_inside_one_whose_batches_another_thread_has_read_is_inside(
    bus: EventBus, elsewhere: Elsewhere
) -> None:
    def read(run: Run) -> None:
        for _ in run.batches([1, 2]):
            run.report(loss=1.0)

    with Run(bus, name="a") as run:
        for _ in run.epochs(1):
            elsewhere(lambda: read(run))
            assert train(bus, "probe").outcome == "completed"
