"""Preemption: a signal of the operating system becomes a Stop, and nothing else (T10, T11, T12)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from eventbus import Emitter, EventBus, Priority
from eventbus.handlers import Checkpoint, Preemption
from eventbus.loops import Run
from eventbus.testing import FakeClock, capture

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Heard(list[int]):
    """What was in place before: takes down what it hears."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.append(number)


@pytest.fixture(autouse=True)
def heard() -> Iterator[Heard]:
    """Put a listener in place of what would end the test's process."""
    heard = Heard()
    before = {number: signal.signal(number, heard) for number in NUMBERS[:2]}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


def in_place() -> list[Any]:
    return [signal.getsignal(number) for number in NUMBERS]


def preempted(**arguments: Any) -> EventBus:
    bus = EventBus(strict=True)
    bus.attach(Preemption(**arguments))
    return bus


def opened(bus: EventBus) -> Emitter:
    loop = bus.bind(sender="train")
    loop.emit("run_opened")
    return loop


@contextmanager
def leaving(error: type[BaseException], code: int | None = None) -> Iterator[None]:
    with pytest.raises(error) as left:
        yield
    assert getattr(left.value, "code", None) == code


def close(loop: Emitter) -> None:
    loop.emit("run_closed", outcome="stopped")


# -- a stop, at the next safe point


def test_sigterm_stops_training_after_the_step_under_way() -> None:
    bus = preempted()
    with capture(bus) as seen, leaving(SystemExit, 143), Run(bus) as run:
        for _epoch in run.epochs(3):
            for batch in run.batches([1, 2, 3]):
                if (run.epoch, batch) == (2, 2):
                    signal.raise_signal(signal.SIGTERM)
                run.report(loss=1.0)
    assert (run.outcome, run.epoch, run.step) == ("stopped", 2, 5)
    assert run.stop is not None
    assert (run.stop.reason, run.stop.by) == ("SIGTERM", "Preemption")
    ends = ["batch_finished", "stop_requested", "epoch_interrupted", "run_finished", "run_closed"]
    assert seen.names[-5:] == ends
    assert seen.of("stop_requested")[0]["reason"] == "SIGTERM"


def test_sigterm_within_a_validation_interrupts_it_at_its_next_batch() -> None:
    bus = preempted()
    validated = []
    with capture(bus) as seen, leaving(SystemExit, 143), Run(bus) as run:
        for _epoch in run.epochs(3):
            for _ in run.batches([1, 2]):
                run.report(loss=1.0)
            for batch in run.validate([1, 2, 3]):
                validated.append(batch)
                signal.raise_signal(signal.SIGTERM)
                run.report(loss=0.5)
    assert validated == [1]
    assert seen.of("validation_interrupted")[0]["reason"] == "SIGTERM"
    assert seen.of("epoch_interrupted")[0]["step"] == 2
    assert seen.of("validation_done") == []


def test_sigterm_while_a_run_resumes_is_not_missed() -> None:
    bus = preempted()
    bus.on("run_opened", priority=Priority.PERSIST)(lambda: signal.raise_signal(signal.SIGTERM))
    with leaving(SystemExit, 143), Run(bus) as run:
        assert list(run.epochs(3)) == []


def test_later_runs_end_at_once() -> None:
    bus = preempted()
    bodies = []
    for fold in (1, 2, 3):
        with leaving(SystemExit, 143), Run(bus) as run:
            for epoch in run.epochs(3):
                bodies.append((fold, epoch))
                signal.raise_signal(signal.SIGTERM)
    assert bodies == [(1, 1)]


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("SIGTERM", {"exit_code": 75}, 75),
        ("SIGUSR1", {"exit_code": 75}, 128 + signal.SIGUSR1),
        ("SIGINT", {"interrupt": True}, 130),
        ("SIGUSR2", {"signals": ["SIGUSR2"]}, 128 + signal.SIGUSR2),
    ],
)
def test_exit_code_is_that_of_the_signal(name: str, arguments: dict[str, Any], code: int) -> None:
    bus = preempted(**arguments)
    before = signal.getsignal(signal.Signals[name])
    with leaving(SystemExit, code), Run(bus):
        signal.raise_signal(signal.Signals[name])
    assert signal.getsignal(signal.Signals[name]) is before


# -- when it listens


def test_import_and_construction_and_attaching_leave_the_process_alone() -> None:
    script = (
        "import signal; every = sorted(signal.valid_signals())\n"
        "before = [signal.getsignal(n) for n in every]\n"
        "from eventbus import EventBus\n"
        "from eventbus.handlers.preemption import Preemption\n"
        "EventBus().attach(Preemption(interrupt=True))\n"
        "assert [signal.getsignal(n) for n in every] == before\n"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("failure", [None, ValueError("broken"), KeyboardInterrupt()], ids=repr)
def test_what_was_in_place_is_put_back_when_the_run_is_closed(
    failure: BaseException | None,
) -> None:
    before = in_place()
    bus = preempted(interrupt=True)
    during: list[Any] = []
    last: list[Any] = []
    bus.on("run_closed", priority=Priority.PERSIST - 50)(lambda: last.extend(in_place()))
    with suppress(ValueError, KeyboardInterrupt), Run(bus) as run:
        for _ in run.epochs(1):
            during.extend(in_place())
            if failure is not None:
                raise failure
    assert in_place() == before
    assert not set(map(id, before)) & set(map(id, during))
    assert last == during  # those who save at the end are still protected


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Python's own Ctrl-C, also where the tests were started in the background and ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_is_left_alone_unless_wanted() -> None:
    before = signal.getsignal(signal.SIGINT)
    loop = opened(preempted())
    assert signal.getsignal(signal.SIGINT) is before
    close(loop)
    with leaving(KeyboardInterrupt), Run(preempted()) as run:
        for _ in run.epochs(3):
            signal.raise_signal(signal.SIGINT)
    assert run.outcome == "failed"


def test_an_inner_run_changes_nothing() -> None:
    bus = preempted()
    before = in_place()
    with Run(bus) as run:
        during = in_place()
        with Run(bus, name="inner") as inner:
            assert list(inner.epochs(1)) == [1]
        assert in_place() == during
        assert list(run.epochs(1)) == [1]
    assert in_place() == before


def test_an_inner_run_that_it_alone_listens_to_is_its_outermost() -> None:
    bus = EventBus(strict=True)
    bus.attach(Preemption(), sender="inner")
    before = in_place()
    with Run(bus):
        assert in_place() == before
        with Run(bus, name="inner"):
            assert in_place()[0] is not before[0]
        assert in_place() == before


def test_attaching_to_an_open_run_serves_it_from_its_first_use() -> None:
    bus = EventBus(strict=True)
    before = in_place()
    with leaving(SystemExit, 143), Run(bus) as run:
        bus.attach(Preemption())
        for _ in run.epochs(3):
            signal.raise_signal(signal.SIGTERM)
    assert run.epoch == 1
    assert in_place() == before


def test_in_another_thread_it_listens_to_nothing_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = preempted()
    before = in_place()
    during: list[Any] = []

    def train() -> None:
        with Run(bus) as run:
            for _ in run.epochs(1):
                during.extend(in_place())

    thread = threading.Thread(target=train, name="trainer")
    thread.start()
    thread.join()
    assert during == before == in_place()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "main thread" in message
    assert message.endswith("is in trainer")
    with Run(bus):  # and it listens again where it can
        assert in_place()[0] is not before[0]


# -- whoever was there before


def test_the_previous_handler_is_called_after_the_answer(heard: Heard) -> None:
    bus = preempted()
    loop = opened(bus)
    pending: list[bool] = []
    signal.raise_signal(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1]
    close(loop)

    signal.signal(signal.SIGTERM, lambda *_: pending.append(loop.answers.stop is not None))
    loop = opened(preempted())
    signal.raise_signal(signal.SIGTERM)
    assert pending == [True]
    close(loop)


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_without_a_previous_handler_the_stop_is_all(before: Any) -> None:
    signal.signal(signal.SIGTERM, before)
    loop = opened(preempted())
    signal.raise_signal(signal.SIGTERM)  # the default would end this process
    assert loop.answers.stop is not None
    close(loop)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_python_cannot_put_back_is_left_in_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, heard: Heard
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: None)  # installed by a C library
        loop = opened(preempted(signals=["SIGTERM"]))
    assert signal.getsignal(signal.SIGTERM) is heard
    assert "leaves SIGTERM" in caplog.text
    close(loop)
    assert signal.getsignal(signal.SIGTERM) is heard


def test_who_took_its_place_meanwhile_keeps_it_and_may_still_pass_on(heard: Heard) -> None:
    bus = preempted()
    first = opened(bus)
    ours: Any = signal.getsignal(signal.SIGTERM)

    def theirs(number: int, frame: FrameType | None) -> None:
        ours(number, frame)

    signal.signal(signal.SIGTERM, theirs)
    close(first)
    assert signal.getsignal(signal.SIGTERM) is theirs
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    assert bus.bind(sender="train").answers.stop is None  # no run was open
    second = opened(bus)
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM] * 2
    assert second.answers.stop is not None
    close(second)
    assert signal.getsignal(signal.SIGTERM) is theirs


def test_runs_on_two_buses_that_close_in_the_order_they_opened_leave_nothing_in_place() -> None:
    before = in_place()
    first, second = opened(preempted()), opened(preempted())
    close(first)
    signal.raise_signal(signal.SIGTERM)
    assert second.answers.stop is not None
    close(second)
    assert in_place() == before


def test_detached_within_a_run_it_leaves_the_process_as_it_was(heard: Heard) -> None:
    bus, before = EventBus(), in_place()
    with bus.attach(Preemption()):
        loop = opened(bus)
        assert in_place() != before
    assert in_place() == before
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    assert loop.answers.stop is None


def test_detached_in_another_thread_it_lets_the_signal_through(heard: Heard) -> None:
    bus = EventBus()
    attachment = bus.attach(Preemption())
    loop = opened(bus)
    thread = threading.Thread(target=attachment.detach)
    thread.start()
    thread.join()
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    assert loop.answers.stop is None


def test_detached_from_another_bus_it_listens_on() -> None:
    bus, other, preemption = EventBus(), EventBus(), Preemption()
    bus.attach(preemption)
    loop = opened(bus)
    with other.attach(preemption):
        pass
    signal.raise_signal(signal.SIGTERM)
    assert loop.answers.stop is not None
    close(loop)


# -- again


def test_an_echo_of_the_signal_is_the_same_signal(heard: Heard) -> None:
    clock = FakeClock()
    loop = opened(preempted(monotonic=clock))
    signal.raise_signal(signal.SIGTERM)
    clock.advance(0.4)
    signal.raise_signal(signal.SIGTERM)
    assert len(loop.answers.pending) == 1
    assert heard == [signal.SIGTERM] * 2
    close(loop)


def test_signals_of_two_kinds_are_no_repetition() -> None:
    clock = FakeClock()
    loop = opened(preempted(monotonic=clock))
    signal.raise_signal(signal.SIGUSR1)
    clock.advance(60)
    signal.raise_signal(signal.SIGTERM)
    assert [stop.reason for stop in loop.answers.pending] == ["SIGUSR1", "SIGTERM"]
    close(loop)


def test_a_second_ctrl_c_is_an_ordinary_one() -> None:
    clock = FakeClock()
    loop = opened(preempted(interrupt=True, monotonic=clock))
    signal.raise_signal(signal.SIGINT)
    clock.advance(1)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    close(loop)


AGAIN = """
import signal, sys
from eventbus import EventBus
from eventbus.handlers.preemption import Preemption
from eventbus.testing import FakeClock
clock, bus = FakeClock(), EventBus()
bus.attach(Preemption(monotonic=clock))
loop = bus.bind(sender="train")
loop.emit("run_opened")

@bus.on("run_finished")
def save():
    print("saving", flush=True)
    clock.advance(1)
    signal.raise_signal(signal.SIGTERM)
    print("saved", flush=True)

try:
    signal.raise_signal(signal.SIGTERM)
    print("going on", flush=True)
    loop.emit("run_finished", reason="SIGTERM")
finally:
    print("closing", flush=True)
"""


def test_a_second_signal_leaves_at_once_even_while_saving() -> None:
    done = run_script(AGAIN)
    assert (done.returncode, done.stdout) == (143, "going on\nsaving\n")
    assert done.stderr == "Preemption: a second SIGTERM, leaving at once\n"


WHILE_SAVING = """
import signal, sys, torch
from eventbus import EventBus
from eventbus.handlers import Checkpoint, Preemption
from eventbus.loops import Run
from eventbus.testing import FakeClock

def interrupted(*args):  # between writing the state and giving it its place
    if run.stop is not None:
        clock.advance(1)
        signal.raise_signal(signal.SIGTERM)
    return rename(*args)

clock, bus, model = FakeClock(), EventBus(), torch.nn.Linear(2, 1)
bus.attach(Preemption(monotonic=clock))
checkpoint = Checkpoint(sys.argv[1], best=None)
rename, checkpoint.files.rename = checkpoint.files.rename, interrupted
bus.attach(checkpoint)
with Run(bus, model=model) as run:
    for epoch in run.epochs(5):
        for batch in run.batches([1, 2, 3]):
            if run.step == 5:
                signal.raise_signal(signal.SIGTERM)
            run.report(loss=1.0)
"""


def test_a_second_signal_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path,
) -> None:
    done = run_script(WHILE_SAVING, str(tmp_path))
    assert done.returncode == 143, done.stderr
    (saved,) = Checkpoint.saved(tmp_path)
    assert saved.manifest.step == 3
    assert Checkpoint.load(saved.path)["loop"]["step"] == 3


FORKED = """
import os, signal
from eventbus import EventBus
from eventbus.handlers.preemption import Preemption
signal.signal(signal.SIGUSR1, lambda *_: print("as before", flush=True))
bus = EventBus()
bus.attach(Preemption())
loop = bus.bind(sender="train")
loop.emit("run_opened")
child = os.fork()
if child == 0:
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGTERM)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), loop.answers.stop)
"""


def test_a_forked_child_can_be_terminated_as_ever() -> None:
    assert run_script(FORKED).stdout == "as before\n-15 None\n"


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# -- arguments


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Preemption("SIGTERM"), TypeError, "sequence of names; got 'SIGTERM'"),
        (lambda: Preemption(["SIGTREM"]), ValueError, "named 'SIGTREM'"),
        (lambda: Preemption(["SIGKILL"]), ValueError, "named 'SIGKILL'"),
    ],
)
def test_a_wrong_name_is_told_at_once(
    make: Callable[[], Preemption], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_no_signals_but_ctrl_c_is_possible() -> None:
    assert Preemption([], interrupt=True).signals == ("SIGINT",)


# -- workers


IN_WORKER = """
import os, pickle, signal, sys
from eventbus.handlers.preemption import ignore_in_worker
if os.fork() == 0:
    numbers = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT
    before = [signal.getsignal(number) for number in numbers]
    work = pickle.loads(pickle.dumps(ignore_in_worker))
    for _ in range(2):
        work(0, *map(str.split, sys.argv[1:]))
    print([signal.getsignal(n) is signal.SIG_IGN for n in numbers], os.getsid(0) == os.getpid())
    print(signal.getsignal(signal.SIGTERM) is before[0])
    sys.exit()
os.wait()
"""


def test_a_worker_leaves_the_session_and_ignores_what_does_not_end_it() -> None:
    assert run_script(IN_WORKER).stdout == "[False, True, True] True\nTrue\n"


def test_a_worker_ignores_the_signals_that_are_named() -> None:
    done = run_script(IN_WORKER, "SIGUSR1 SIGNOTHERE")
    assert done.stdout == "[False, True, False] False\nTrue\n"


ENDING = """
import os, signal, sys
import torch
from torch.utils.data import DataLoader
from eventbus import EventBus
from eventbus.handlers import Preemption
from eventbus.handlers.preemption import ignore_in_worker
from eventbus.loops import Run

def load(method, keep):
    data, persistent = torch.ones(64, 2), keep == "persistent"
    return DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=method,
                      persistent_workers=persistent, worker_init_fn=ignore_in_worker)

def main(where, *how):
    bus = EventBus()
    bus.attach(Preemption())

    @bus.on("batch_finished" if where == "training" else "validation_batch_finished")
    def end(step):
        if where == "stopped":
            os.killpg(0, signal.SIGTERM)
        else:
            raise ValueError("meant")

    @bus.on("run_finished")
    def save():
        raise ValueError("the disk is full")

    training, validation = load(*how), load(*how)
    with Run(bus) as run:
        for _ in run.epochs(3):
            for _ in run.batches(training):
                run.report(loss=1.0)
                if run.step > 3:
                    break
            for _ in run.validate(validation):
                run.report(loss=1.0)

if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "method", "keep", "code"),
    [
        ("training", "fork", "anew", 1),
        ("validation", "fork", "persistent", 1),
        ("stopped", "fork", "persistent", 1),
    ],
)
def test_a_process_ends_with_its_workers_however_it_comes_to_its_end(
    where: str, method: str, keep: str, code: int, tmp_path: Path
) -> None:
    script = tmp_path / "ending.py"
    script.write_text(ENDING)
    command = [sys.executable, "-P", str(script), where, method, keep]
    # Ended by the time limit if not by itself; the workers hold the pipes too.
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=90, check=False, start_new_session=True
    )
    assert done.returncode == code, done.stderr
    assert "exited unexpectedly" not in done.stderr


TRAINING = """
import sys, time
import torch
from torch.utils.data import DataLoader
from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.handlers.preemption import Preemption, ignore_in_worker
from eventbus.loops import Run

class Slow(torch.utils.data.Dataset):
    '''So that the loop mostly waits for its workers, and soon misses one that is gone.'''
    def __len__(self):
        return 32
    def __getitem__(self, index):
        time.sleep(0.005)
        return torch.full((2,), float(index))

def load(workers):
    return DataLoader(Slow(), batch_size=4, num_workers=workers, persistent_workers=True,
                      worker_init_fn=ignore_in_worker)

def main():
    bus, model = EventBus(), torch.nn.Linear(2, 1)
    bus.attach(Preemption())
    bus.attach(Checkpoint(sys.argv[1], best=None))
    bus.on("batch_finished")(lambda step: print("step", step, flush=True))
    bus.on("validation_batch_finished")(lambda step: print("validated", step, flush=True))
    training, validation = load(2), load(2)
    with Run(bus, model=model) as run:
        for _ in run.epochs(1_000_000):
            for batch in run.batches(training):
                run.report(loss=model(batch).mean())
            for batch in run.validate(validation):
                run.report(loss=model(batch).mean())

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_signal_to_the_whole_process_group_ends_training_with_workers_in_good_order(
    seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    number = signal.SIGUSR1 if seed % 4 == 3 else signal.SIGTERM
    script, saved = tmp_path / "training.py", tmp_path / "saved"
    script.write_text(TRAINING)
    command = [sys.executable, "-P", str(script), str(saved)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        after = chance.randint(10, 60)  # lines; by the tenth each worker has given a batch
        lines = [process.stdout.readline() for _ in range(after)]
        os.killpg(process.pid, number)
        # The workers hold the pipes too, so this shows that all of them have ended. Not by
        # `communicate`, which knows nothing of lines that were read ahead.
        rest = process.stdout.read()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 128 + number, errors
    steps = [int(line.split()[1]) for line in [*lines, *rest.splitlines()] if "step" in line]
    assert steps == list(range(1, steps[-1] + 1))
    assert Checkpoint.saved(saved)[-1].manifest.step == steps[-1]
