"""Ctrl-C and a second signal in a handler, in an emission, in a save, in a close (T11, T13).

What is on the disk is whole, the others are closed, and the run can be gone on from.
"""

from __future__ import annotations

import _thread
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus, Priority
from eventbus.handlers import Checkpoint, CSVLog, JSONLLog, Preemption
from eventbus.handlers._checkpoint_files import Folder
from eventbus.handlers._files import Files
from eventbus.loops import Run
from eventbus.testing import FakeClock

from .saving import CHANGES

EPOCHS, STEPS = 2, 2


class Interrupting(Files):
    """A file system that calls something before its n-th change, writes in a row being one.

    It counts while it is armed.
    """

    def __init__(self, at: int, call: Callable[[], object]) -> None:
        self.at, self.call = at, call
        self.count, self.armed, self.last = 0, True, ""

    def __getattribute__(self, name: str) -> Any:
        if name in CHANGES and self.armed:
            if name != "write" or self.last != "write":
                self.count += 1
                if self.count == self.at:
                    self.call()
            self.last = name
        return super().__getattribute__(name)


def train(bus: EventBus, each_step: Callable[[Run], object] = lambda run: None) -> Run:
    """Train a weight that counts its steps."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    with Run(bus, model=model) as run:
        for _epoch in run.epochs(EPOCHS):
            for _batch in run.batches(range(STEPS)):
                each_step(run)
                with torch.no_grad():
                    model.weight += 1
                run.report(loss=1.0)
    return run


def assert_whole(directory: Path) -> None:
    """See that nothing is half done, that all that is there loads, and that a run goes on."""
    for saved in Checkpoint.saved(directory):
        assert Checkpoint.load(saved.path)["model"]["weight"].item() == saved.manifest.step
    bus = EventBus(strict=True)
    bus.attach(Checkpoint(directory, resume="auto", best=None))
    assert train(bus).step == EPOCHS * STEPS
    assert Checkpoint.weights(directory)["weight"].item() == EPOCHS * STEPS
    Folder(directory, Files()).sweep()
    assert [each.name for each in directory.iterdir() if each.name.startswith(".")] == []


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own Ctrl-C, also where the tests were started in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# -- Ctrl-C

SIGNALS = [
    "run_opened",
    "run_started",
    "epoch_started",
    "batch_loaded",
    "batch_finished",
    "state_requested",
    "checkpoint_saved",
    "epoch_finished",
    "run_finished",
    "run_closed",
]


def by_raising() -> None:
    raise KeyboardInterrupt


def by_the_system() -> None:
    _thread.interrupt_main()


def in_an_emission_of(bus: EventBus) -> Callable[[], object]:
    """Return what emits, and is interrupted within that."""
    bus.on("text_written")(by_raising)
    return lambda: bus.emit("text_written", tag="t", text="x")


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("how", ["raised", "sent", "in an emission"])
@pytest.mark.parametrize("name", SIGNALS)
def test_ctrl_c_on_any_signal_goes_on_and_the_others_are_closed(
    name: str, how: str, tmp_path: Path
) -> None:
    bus, closed = EventBus(strict=True), list[str]()
    bus.on("run_closed", priority=Priority.ALTER)(lambda: closed.append("before"))
    bus.on("run_closed", priority=Priority.PERSIST - 1)(lambda: closed.append("after"))
    bus.attach(Checkpoint(tmp_path / "saved", best=None, keep=None))
    bus.attach(CSVLog(tmp_path / "log.csv"))
    bus.attach(JSONLLog(tmp_path / "log.jsonl"))
    ways: dict[str, Callable[[], object]] = {
        "raised": by_raising,
        "sent": by_the_system,
        "in an emission": in_an_emission_of(bus),
    }
    bus.once(name)(ways[how])
    with pytest.raises(KeyboardInterrupt):
        train(bus)
    assert closed == ["before", "after"]
    assert bus.open_runs == ()
    for log in (CSVLog.read, JSONLLog.read):
        path = tmp_path / ("log.csv" if log is CSVLog.read else "log.jsonl")
        assert not path.exists() or isinstance(log(path), list)
    assert_whole(tmp_path / "saved")


@pytest.mark.parametrize("asynchronous", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ctrl_c_at_any_operation_of_a_save_leaves_the_others_whole(
    tmp_path: Path, asynchronous: bool
) -> None:
    at, interrupted = 0, True
    while interrupted:
        at += 1
        bus, closed = EventBus(strict=True), list[str]()
        bus.on("run_closed", priority=Priority.PERSIST - 1)(lambda heard=closed: heard.append("it"))
        folder = tmp_path / str(at)
        checkpoint = Checkpoint(folder, keep=1, best=None, asynchronous=asynchronous)
        checkpoint.files = Interrupting(at, by_raising)
        bus.attach(checkpoint)
        try:
            interrupted = False
            train(bus)
        except KeyboardInterrupt:
            interrupted = True
        assert closed == ["it"]
        assert_whole(folder)
    assert at > 25


# -- again, while the first one's Stop is being saved


def twice(number: signal.Signals, directory: Path, at: int) -> int:
    """Stop a run by a signal, and send it again at an operation of the save; count those."""
    clock, bus = FakeClock(), EventBus(strict=True)

    def again() -> None:
        clock.advance(1)
        signal.raise_signal(number)

    bus.attach(Preemption(interrupt=True, monotonic=clock))
    checkpoint = Checkpoint(directory, best=None, keep=1)
    checkpoint.files = files = Interrupting(at, again)
    files.armed = False
    bus.attach(checkpoint)

    def first(run: Run) -> None:
        if run.step == STEPS + 1:
            signal.raise_signal(number)
            files.armed = True

    with suppress(SystemExit):
        train(bus, first)
    return files.count


def operations(number: signal.Signals, directory: Path) -> range:
    count = twice(number, directory, at=0)
    assert count > 10
    return range(1, count + 1)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_at_any_operation_of_the_save_leaves_the_others_whole(
    tmp_path: Path,
) -> None:
    for at in operations(signal.SIGINT, tmp_path / "counted"):
        with pytest.raises(KeyboardInterrupt):
            twice(signal.SIGINT, tmp_path / str(at), at)
        assert_whole(tmp_path / str(at))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_second_sigterm_at_any_operation_of_the_save_leaves_the_others_whole(
    tmp_path: Path,
) -> None:
    for at in operations(signal.SIGTERM, tmp_path / "counted"):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # that it leaves at once
            try:
                twice(signal.SIGTERM, tmp_path / str(at), at)
            finally:
                os._exit(1)  # the second one should have ended it
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
        steps = [saved.manifest.step for saved in Checkpoint.saved(tmp_path / str(at))]
        assert steps[-1] in (STEPS, STEPS + 1)
