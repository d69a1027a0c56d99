"""Checkpoint(asynchronous=True): saved beside the training, told of, never lost (T06)."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, BinaryIO

import pytest
import torch

from eventbus import EventBus, State
from eventbus.handlers import Checkpoint
from eventbus.handlers import _checkpoint_writer as writer_module
from eventbus.handlers._checkpoint_files import Folder
from eventbus.handlers._checkpoint_writer import Writer, _Task
from eventbus.handlers._files import Files
from eventbus.handlers.checkpoint import CheckpointError
from eventbus.loops import Run

from .hand_loop import Training, epochs_in, sequence_of
from .saving import draft, newest_step, state


class HeldDisk(Files):
    """A disk that writes nothing before it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.threads: set[threading.Thread] = set()

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        self.threads.add(threading.current_thread())
        assert self.go.wait(60)
        super().write(file, data)


class FullDisk(Files):
    """A disk on which nothing more can be written."""

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def asynchronous(directory: Path, **arguments: Any) -> tuple[EventBus, Checkpoint]:
    bus, checkpoint = EventBus(), Checkpoint(directory, asynchronous=True, **arguments)
    bus.attach(checkpoint)
    return bus, checkpoint


def finish_epoch(training: Training, epoch: int) -> None:
    training.loop.emit("epoch_finished", epoch=epoch, step=10 * epoch, metrics={"val_loss": 1.0})


def finish_batch(training: Training, step: int) -> None:
    training.loop.emit("batch_finished", epoch=1, step=step)


def writing(checkpoint: Checkpoint) -> threading.Thread:
    """The thread of the save that is under way."""
    (thread,) = (one for one in threading.enumerate() if one.name == "eventbus checkpoint")
    return thread


def with_state(bus: EventBus, **context: Any) -> Training:
    training = Training(bus, **context)
    bus.on("state_requested")(training.give)
    return training


# -- what is written


def test_run_saves_and_rotates_as_one_that_waits(tmp_path: Path) -> None:
    bus, checkpoint = asynchronous(tmp_path, keep=1)
    Training(bus).run(5, sequence_of([3, 1, 4, 5, 6]))
    assert epochs_in(tmp_path) == [2, 5]
    assert checkpoint.best_path == tmp_path / "step-00000020-0002"
    assert checkpoint.last_path == tmp_path / "step-00000050-0005"


@pytest.mark.parametrize("cuts", [[1], [3], [1, 2, 2, 4]])
def test_run_killed_and_resumed_ends_where_one_that_was_not(
    tmp_path: Path, cuts: list[int]
) -> None:
    for cut in cuts:
        Training(asynchronous(tmp_path, resume="auto", keep=2)[0]).run(6, fail_after=cut)
    resumed = Training(asynchronous(tmp_path, resume="auto", keep=2)[0]).run(6)
    assert torch.equal(resumed.weight, Training(EventBus()).run(6).weight)
    assert resumed.resumed_from is not None


def test_file_holds_the_state_of_the_moment_of_the_save(tmp_path: Path) -> None:
    bus, checkpoint = asynchronous(tmp_path)
    checkpoint.files = disk = HeldDisk()
    training = with_state(bus)
    finish_epoch(training, 1)
    training.weight += 7  # in place, while it is being written
    disk.go.set()
    training.loop.emit("run_closed", outcome="completed")
    assert torch.equal(Checkpoint.weights(tmp_path)["weight"], torch.zeros(3))


def test_loop_writes_nothing_itself(tmp_path: Path) -> None:
    bus, checkpoint = asynchronous(tmp_path)
    checkpoint.files = disk = HeldDisk()
    disk.go.set()
    Training(bus).run(3)
    assert threading.current_thread() not in disk.threads
    assert len(disk.threads) == 3


def test_state_that_would_not_load_is_refused_at_once(tmp_path: Path) -> None:
    bus, _ = asynchronous(tmp_path / "run")
    training = with_state(bus)
    training.extra = {"f": print}
    with pytest.raises(CheckpointError, match=r"extra\.f is a builtin"):
        finish_epoch(training, 1)
    assert not (tmp_path / "run").exists()


# -- when it is told


def test_checkpoint_is_told_at_the_first_step_after_it_is_there(tmp_path: Path) -> None:
    bus, checkpoint = asynchronous(tmp_path)
    told: list[tuple[str, int]] = []

    @bus.on("checkpoint_saved")
    def hear(path: str, step: int) -> None:
        assert Checkpoint.load(path)["loop"]["epoch"] == 0
        told.append((threading.current_thread().name, step))

    checkpoint.files = disk = HeldDisk()
    training = with_state(bus)
    finish_epoch(training, 1)
    finish_batch(training, 11)
    assert told == []
    assert checkpoint.last_path is None
    thread = writing(checkpoint)
    disk.go.set()
    thread.join()
    finish_batch(training, 12)
    finish_batch(training, 13)
    assert told == [(threading.main_thread().name, 10)]


def test_each_checkpoint_is_told_before_the_run_is_closed(tmp_path: Path) -> None:
    bus, _ = asynchronous(tmp_path)
    told: list[int] = []
    bus.on("checkpoint_saved")(lambda step: told.append(step))
    Training(bus).run(3)
    assert told == [10, 20, 30]


def test_one_save_is_under_way_at_a_time(tmp_path: Path) -> None:
    bus, checkpoint = asynchronous(tmp_path, keep=None)
    checkpoint.files = disk = HeldDisk()
    training = with_state(bus)
    finish_epoch(training, 1)
    letting_go = threading.Timer(0.05, disk.go.set)
    letting_go.start()
    finish_epoch(training, 2)  # waits for the first
    assert epochs_in(tmp_path)[:1] == [1]
    training.loop.emit("run_closed", outcome="completed")
    letting_go.join()
    assert epochs_in(tmp_path) == [1, 2]


# -- failures


def fail_first(tmp_path: Path) -> tuple[Training, Checkpoint]:
    bus, checkpoint = asynchronous(tmp_path)
    checkpoint.files = FullDisk()
    training = with_state(bus)
    finish_epoch(training, 1)
    return training, checkpoint


def test_failure_is_raised_by_the_next_save(tmp_path: Path) -> None:
    training, checkpoint = fail_first(tmp_path)
    with pytest.raises(CheckpointError, match="No space left"):
        finish_epoch(training, 2)
    checkpoint.files = Files()
    finish_epoch(training, 3)
    training.loop.emit("run_closed", outcome="completed")
    assert epochs_in(tmp_path) == [3]


def test_failure_is_raised_at_a_step_before_that(tmp_path: Path) -> None:
    training, _ = fail_first(tmp_path)
    for thread in threading.enumerate():
        if thread.name == "eventbus checkpoint":
            thread.join()
    with pytest.raises(CheckpointError, match="No space left"):
        finish_batch(training, 11)
    finish_batch(training, 12)  # raised once


@pytest.mark.parametrize("signal", ["run_finished", "run_closed"])
def test_failure_is_raised_at_the_end(tmp_path: Path, signal: str) -> None:
    training, _ = fail_first(tmp_path)
    ends: dict[str, dict[str, Any]] = {
        "run_finished": {"reason": "completed"},
        "run_closed": {"outcome": "completed"},
    }
    with pytest.raises(CheckpointError, match="No space left"):
        training.loop.emit(signal, **ends[signal])


def test_failure_is_logged_where_the_run_has_failed_already(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training, _ = fail_first(tmp_path)
    training.loop.emit("run_closed", outcome="failed")
    assert "saving a checkpoint failed" in caplog.text
    assert "No space left" in caplog.text


def test_disk_that_hangs_is_waited_for_so_long_and_named(tmp_path: Path) -> None:
    bus, checkpoint = asynchronous(tmp_path)
    checkpoint._writer = Writer(longest_wait_s=0.01)
    checkpoint.files = disk = HeldDisk()
    training = with_state(bus)
    finish_epoch(training, 1)
    thread = writing(checkpoint)
    with pytest.raises(CheckpointError, match=r"still not written after 0.01 s"):
        finish_epoch(training, 2)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        training.loop.emit("run_closed", outcome="completed")
    disk.go.set()
    thread.join()


@dataclass
class Hung:
    """A run whose first save hung: what it failed of, and how it was waited for."""

    error: Exception
    waits: list[float]

    @property
    def notes(self) -> str:
        return "\n".join(getattr(self.error, "__notes__", ()))


def run_on_disk_that_hangs(
    directory: Path, monkeypatch: pytest.MonkeyPatch, fails: bool = False, **arguments: Any
) -> Hung:
    """Train two epochs; the first save hangs, and with `fails` the loop fails before the second."""
    bus, checkpoint = asynchronous(directory, **arguments)
    checkpoint._writer = Writer(longest_wait_s=0.01)
    checkpoint.files = disk = HeldDisk()
    waits: list[float] = []
    wait = _Task.wait

    def waiting(task: _Task, timeout_s: float) -> bool:
        waits.append(timeout_s)
        return wait(task, timeout_s)

    monkeypatch.setattr(_Task, "wait", waiting)
    with pytest.raises((CheckpointError, ZeroDivisionError)) as caught:
        train_two_epochs(bus, fails)
    disk.go.set()
    for thread in disk.threads:
        thread.join()
    return Hung(caught.value, waits)


def train_two_epochs(bus: EventBus, fails: bool) -> None:
    with Run(bus, model=torch.nn.Linear(1, 1)) as run:
        for epoch in run.epochs(2):
            for _ in run.batches([0]):
                if fails and epoch == 2:
                    raise ZeroDivisionError("the loop failed")
                run.report(loss=1.0)


def test_run_that_fails_of_a_disk_that_hangs_waits_once_and_says_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hung = run_on_disk_that_hangs(tmp_path, monkeypatch)
    assert "still not written after 0.01 s" in str(hung.error)
    assert hung.waits.count(0.01) == 1
    assert "saved" not in hung.notes
    assert caplog.text == ""


def test_run_that_was_to_save_after_a_disk_that_hangs_says_that_it_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hung = run_on_disk_that_hangs(tmp_path, monkeypatch, on_failure=True)
    assert hung.waits.count(0.01) == 1
    assert "after the run had failed, saving a checkpoint failed too: a checkpoint in" in hung.notes
    assert caplog.text == ""


def test_run_that_fails_while_a_disk_hangs_waits_once_and_tells_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hung = run_on_disk_that_hangs(tmp_path, monkeypatch, fails=True)
    assert isinstance(hung.error, ZeroDivisionError)
    assert hung.waits.count(0.01) == 1
    assert "saving a checkpoint failed: a checkpoint in" in hung.notes
    assert caplog.text.count("saving a checkpoint failed") == 1
    assert "ZeroDivisionError" not in caplog.text


def test_save_that_comes_to_its_end_after_all_is_told_of(tmp_path: Path) -> None:
    bus, checkpoint = asynchronous(tmp_path)
    told: list[int] = []
    bus.on("checkpoint_saved")(lambda step: told.append(step))
    checkpoint._writer = writer = Writer(longest_wait_s=0.01)
    checkpoint.files = disk = HeldDisk()
    training = with_state(bus)
    finish_epoch(training, 1)
    thread = writing(checkpoint)
    with pytest.raises(CheckpointError):
        finish_epoch(training, 2)
    disk.go.set()
    thread.join()
    writer.longest_wait_s = 60
    finish_epoch(training, 3)
    training.loop.emit("run_closed", outcome="completed")
    assert epochs_in(tmp_path) == [1, 3]
    assert told == [10, 30]


def test_longest_wait_is_the_documented_one() -> None:
    assert writer_module.LONGEST_WAIT_S == 600
    assert "10 minutes" in (Checkpoint.__doc__ or "")


# -- processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_save_under_way_belongs_to_the_process_that_began_it(tmp_path: Path) -> None:
    disk, writer = HeldDisk(), Writer()
    held = Folder(tmp_path, disk)
    writer.start(state(10), lambda copied: held.commit(draft(10), copied))
    child = os.fork()
    if child == 0:
        _save_in_child(writer, tmp_path)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert newest_step(tmp_path) == 20
    disk.go.set()
    saved = writer.settle(tmp_path, wait=True)
    assert saved is not None
    assert sorted(one.manifest.step or 0 for one in held.saved()) == [10, 20]


def _save_in_child(writer: Writer, path: Path) -> None:
    code = 1
    try:
        nothing = writer.settle(path, wait=True)  # of its own
        writer.start(state(20), lambda copied: Folder(path, Files()).commit(draft(20), copied))
        saved = writer.settle(path, wait=True)
        code = 0 if nothing is None and saved is not None else 2
    finally:
        os._exit(code)


def test_memory_is_given_back_at_the_end(tmp_path: Path) -> None:
    bus, checkpoint = asynchronous(tmp_path)
    Training(bus).run(2)
    assert checkpoint._writer is not None
    assert checkpoint._writer._buffers._free == {}


class DiskHeldBetweenTensors(Files):
    """A disk that waits once a first tensor is written, to be let go."""

    def __init__(self) -> None:
        self.go, self.is_held = threading.Event(), threading.Event()

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        super().write(file, data)
        if len(data) > LARGE and not self.is_held.is_set():
            self.is_held.set()
            assert self.go.wait(60)


LARGE = 1_000_000


def interrupt_the_next_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = _Task.wait

    def interrupted(task: _Task, timeout_s: float) -> bool:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        return wait(task, timeout_s)

    monkeypatch.setattr(_Task, "wait", interrupted)


def test_ctrl_c_while_a_save_is_waited_for_lets_nothing_be_written_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, checkpoint = asynchronous(tmp_path, best=None, keep=None, on_failure=True)
    checkpoint.files = disk = DiskHeldBetweenTensors()
    weights = {name: torch.ones(LARGE) for name in ("first", "second")}
    bus.on("state_requested")(lambda: State("model", weights))
    loop = bus.bind(sender="train")
    loop.emit("epoch_finished", epoch=1, step=1, metrics={})
    assert disk.is_held.wait(60)
    for one in weights.values():
        one.fill_(2)
    interrupt_the_next_wait(monkeypatch)
    with pytest.raises(KeyboardInterrupt) as caught:
        loop.emit("epoch_finished", epoch=2, step=2, metrics={})
    monkeypatch.undo()
    threading.Timer(0.1, disk.go.set).start()
    loop.emit("run_failed", exception=caught.value, epoch=2, step=2)
    loop.emit("run_closed", outcome="failed")
    for saved in Checkpoint.saved(tmp_path):
        model = Checkpoint.load(saved.path)["model"]
        values = {float(one[0]) for one in model.values()}
        assert values == {float(saved.manifest.step or 0)}
    assert len(Checkpoint.saved(tmp_path)) == 2


def test_save_under_way_is_finished_where_the_process_ends_without_closing_a_run(
    tmp_path: Path,
) -> None:
    script = """
        import sys, time
        from eventbus import EventBus, State
        from eventbus.handlers import Checkpoint
        from eventbus.handlers._files import Files

        class Slow(Files):
            def write(self, file, data):
                time.sleep(0.2)
                super().write(file, data)

        bus, checkpoint = EventBus(), Checkpoint(sys.argv[1], best=None, asynchronous=True)
        checkpoint.files = Slow()
        bus.attach(checkpoint)
        bus.on("state_requested")(lambda: State("kept", 12))
        bus.bind(sender="train").emit("epoch_finished", epoch=1, step=1, metrics={})
    """
    command = [sys.executable, "-c", dedent(script), str(tmp_path / "saves")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert Checkpoint.load(tmp_path / "saves")["kept"] == 12


def test_save_for_which_no_thread_can_be_started_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    bus, _ = asynchronous(tmp_path)
    training = with_state(bus)
    monkeypatch.setattr(threading.Thread, "start", start)
    before = set(writer_module._under_way)
    with pytest.raises(RuntimeError, match="can't start"):
        finish_epoch(training, 1)
    assert writer_module._under_way <= before
