"""Processes: what holds a bus may travel to a DataLoader worker, where it is inert."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, Stop

from .recorders import Recorder

WORKER_SCRIPT = '''
import sys
import threading
import torch.utils.data
from pathlib import Path
from eventbus import EventBus

class Squares(torch.utils.data.Dataset):
    """A dataset that holds a bus, as user code does sooner or later."""
    def __init__(self, bus, loop, handle):
        self.bus, self.loop, self.handle = bus, loop, handle
    def __len__(self):
        return 8
    def __getitem__(self, index):
        self.loop.emit("sample_drawn", index=index)
        self.bus.emit("sample_drawn", index=index)
        self.bus.signal("sample_drawn").send("worker", index=index)
        self.loop.transform("batch_loaded", index, epoch=1, step=1)
        assert self.loop.emit("sample_drawn", index=index).stop is None
        return index * index

class Writer:
    def __init__(self, path):
        self.path = path
    def __call__(self, index):
        with open(self.path, "a") as file:
            file.write(f"{index}\\n")

def hold_every_lock(bus):
    """As when another thread was subscribing while the loader forked."""
    owners = [bus.registry, *bus.registry.signals]
    thread = threading.Thread(target=lambda: [owner._lock.acquire() for owner in owners])
    thread.start()
    thread.join()
    assert len(owners) > 3

def main(method, path):
    bus = EventBus()
    handler = Writer(path)
    bus.on("sample_drawn")(handler)
    bus.on("batch_loaded")(lambda batch: Writer(path)(batch))
    loop = bus.bind(sender="train", model=torch.nn.Linear(2, 2))
    dataset = Squares(bus, loop, handler)
    loop.emit("sample_drawn", index=-1)
    if method == "held":
        method = "fork"
        hold_every_lock(bus)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=2, num_workers=1, multiprocessing_context=method, timeout=60
    )
    print(sum(int(batch.sum()) for batch in loader))

if __name__ == "__main__":
    main(*sys.argv[1:])
'''


def run_script(script: str, tmp_path: Path, *arguments: str, also_errors: bool = False) -> str:
    path = tmp_path / "training.py"
    path.write_text(script)
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + (result.stderr if also_errors else "")


@pytest.mark.parametrize(
    "method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)]
)
def test_a_dataset_with_a_bus_works_in_workers_and_emits_nothing_there(
    tmp_path: Path, method: str
) -> None:
    written = tmp_path / "written.txt"
    assert run_script(WORKER_SCRIPT, tmp_path, method, str(written)).strip() == "140"
    assert written.read_text() == "-1\n"


def test_a_worker_forked_while_a_lock_was_held_does_not_hang(tmp_path: Path) -> None:
    written = tmp_path / "written.txt"
    assert run_script(WORKER_SCRIPT, tmp_path, "held", str(written)).strip() == "140"
    assert written.read_text() == "-1\n"


def test_a_bus_pickles_to_an_inert_stub(bus: EventBus) -> None:
    recorder = Recorder()
    bus.on("run_started")(recorder.handler("heard"))
    stub = pickle.loads(pickle.dumps(bus))
    stub.on("run_started")(recorder.handler("in the worker"))
    assert stub.bind(sender="train").emit("run_started").stop is None
    assert stub.emit("run_started").stop is None
    assert recorder.calls == []


def test_the_stub_takes_every_call_that_a_bus_takes(bus: EventBus) -> None:
    stub = pickle.loads(pickle.dumps(bus))
    handler = Recorder().handler("h")
    stub.once("run_started")(handler)
    with stub.attach(StepKeeper()):
        pass
    stub.answer(Stop("nobody hears"))
    loop = stub.bind(sender="train", model=1)
    assert loop.transform("batch_loaded", "data", epoch=1, step=1) == "data"
    assert list(loop.answers) == []
    assert stub.open_runs == ()


class StepKeeper:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def test_emitters_and_handles_pickle_too(bus: EventBus) -> None:
    loop = bus.bind(sender="train", model=lambda: "unpicklable")
    handle = bus.attach(StepKeeper())
    stub_loop, stub_handle = pickle.loads(pickle.dumps((loop, handle)))
    assert stub_loop.emit("run_started").stop is None
    stub_handle.detach()


def test_pending_answers_pickle_to_none(bus: EventBus) -> None:
    loop = bus.bind(sender="train")
    bus.answer(Stop("here alone"))
    assert loop.answers.stop is not None
    for pending in (pickle.loads(pickle.dumps(loop.pending)), copy.deepcopy(loop.pending)):
        assert pending.quiet
        assert pending.answers.stop is None


IN_VAIN = (
    "this bus calls nobody, as it was made in another process or is a copy: make the bus, and "
    "attach to it, in the process that trains"
)


@pytest.mark.parametrize(
    "use",
    [
        lambda stub: stub.on("run_started")(lambda: None),
        lambda stub: stub.once("run_started")(lambda: None),
        lambda stub: stub.attach(StepKeeper()),
        lambda stub: stub.bind(sender="train").emit("run_opened"),
    ],
    ids=["on", "once", "attach", "run_opened"],
)
def test_what_is_done_in_vain_on_a_stub_is_said_once(
    bus: EventBus, caplog: pytest.LogCaptureFixture, use: Callable[[EventBus], object]
) -> None:
    stub = pickle.loads(pickle.dumps(bus))
    use(stub)
    stub.on("run_started")(lambda: None)
    stub.emit("run_opened")
    assert caplog.messages == [IN_VAIN]
    use(copy.deepcopy(bus))
    assert caplog.messages == [IN_VAIN] * 2


def test_what_workers_do_with_a_stub_is_quiet(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    loop = bus.bind(sender="train")
    stub, stub_loop = pickle.loads(pickle.dumps((bus, loop)))
    for held in (stub, stub_loop):
        held.emit("sample_drawn", index=1)
        held.transform("batch_loaded", 1, epoch=1, step=1)
    stub.answer(Stop("nobody hears"))
    stub.bind(sender="worker").emit("run_started")
    bus.on("run_started")(lambda: None)  # of the bus itself nothing is said
    loop.emit("run_opened")
    assert caplog.messages == []


FORK_SCRIPT = """
import logging, os
from eventbus import EventBus

logging.basicConfig(format="%(message)s")
bus = EventBus()
child = os.fork()
if child == 0:
    for _ in range(2):
        bus.on("epoch_finished")(lambda epoch: print("heard", epoch))
    bus.bind(sender="train").emit("epoch_finished", epoch=1, step=1)
else:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_is_attached_after_a_fork_is_said_to_be_in_vain(tmp_path: Path) -> None:
    assert run_script(FORK_SCRIPT, tmp_path, also_errors=True).strip() == IN_VAIN


def test_a_stub_pickles_again(bus: EventBus) -> None:
    stub = pickle.loads(pickle.dumps(bus))
    again = pickle.loads(pickle.dumps(stub))
    assert again.emit("run_started").stop is None


def test_pickling_does_not_drag_the_handlers_along(bus: EventBus) -> None:
    class Unpicklable:
        def __call__(self) -> None: ...

        def __reduce__(self) -> Any:
            raise AssertionError("the handler was pickled")

    bus.on("run_started")(Unpicklable())
    assert len(pickle.dumps(bus)) < 1000


def test_the_original_works_on_after_pickling(bus: EventBus) -> None:
    recorder = Recorder()
    bus.on("run_started")(recorder.handler("heard"))
    pickle.dumps(bus)
    bus.emit("run_started")
    assert recorder.calls == ["heard"]


IMPORT_SCRIPT = """
import atexit, faulthandler, logging, signal, sys, threading, warnings
registered = []
atexit.register = lambda *a, **k: registered.append("atexit")
import os, random, secrets, hmac  # the standard library registers its own
os.register_at_fork = lambda *a, **k: registered.append("fork")
sys.addaudithook(lambda name, args: registered.append(name) if name == "signal.signal" else None)
hooks = sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning
signals = [signal.getsignal(number) for number in signal.valid_signals()]
handlers = list(logging.root.handlers)
import eventbus
assert hooks == (sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning)
assert signals == [signal.getsignal(number) for number in signal.valid_signals()]
assert handlers == logging.root.handlers
assert threading.active_count() == 1
assert "torch" not in sys.modules and "numpy" not in sys.modules
print(registered)
"""


def test_an_import_installs_nothing_and_loads_no_torch(tmp_path: Path) -> None:
    assert run_script(IMPORT_SCRIPT, tmp_path).strip() == "[]"


INTERRUPT_SCRIPT = """
import signal, sys
from eventbus import EventBus, Stop

bus = EventBus()
loop = bus.bind(sender="train")
loop.emit("run_opened")
told = []
bus.on("stop_requested")(lambda reason: told.append(reason))
signal.signal(signal.SIGALRM, lambda *_: bus.answer(Stop("alarm")))
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
for step in range(1, 4001):
    def passing(step): ...
    bus.on("batch_finished", priority=step % 5)(passing)
    loop.emit("batch_finished", epoch=1, step=step)
    bus.detach(passing)
    if step % 100 == 0:
        loop.emit("run_closed", outcome="stopped")
        loop = bus.bind(sender="train")
        loop.emit("run_opened")
signal.setitimer(signal.ITIMER_REAL, 0)
assert set(told) == {"alarm"}, told
print("done")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the OS has no interval timer")
def test_os_signals_that_answer_at_any_moment_never_lock_the_bus(tmp_path: Path) -> None:
    assert run_script(INTERRUPT_SCRIPT, tmp_path).strip() == "done"
