"""The life of a background handler: its thread, what it keeps alive, and other processes."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from eventbus import Background, Emitter, EventBus, HandlerError, handles

from .backends import PATIENCE_S, Backend, began, is_ended, noting, settle, threads_of
from .recorders import finish
from .test_processes import run_script


def close(loop: Emitter) -> None:
    loop.emit("run_closed", outcome="completed")


def started(bus: EventBus, loop: Emitter, name: str) -> threading.Thread:
    """Subscribe a background handler; return its thread after an emission."""
    bus.on("batch_finished", background=True, name=name)(noting([]))
    assert threads_of(name) == []  # not before the first emission
    finish(loop)
    (thread,) = threads_of(name)
    return thread


def test_the_thread_is_a_daemon_that_the_first_emission_starts(
    bus: EventBus, loop: Emitter
) -> None:
    assert started(bus, loop, "daemon").daemon


def test_detaching_ends_the_thread_once_all_is_done(bus: EventBus, loop: Emitter) -> None:
    backend, steps = Backend(), []

    def slow(step: int) -> None:
        backend.send(step)
        steps.append(step)

    bus.on("batch_finished", background=True, name="detached")(slow)
    for step in (1, 2, 3):
        finish(loop, step)
    (thread,) = threads_of("detached")
    bus.detach(slow)
    finish(loop, 4)
    backend.release()
    assert is_ended(thread)
    assert steps == [1, 2, 3]


def test_closing_waits_for_what_was_detached(bus: EventBus, loop: Emitter) -> None:
    steps: list[int] = []
    with bus.attach(handles("batch_finished", background=True)(noting(steps))):
        for step in range(1, 101):
            finish(loop, step)
    close(loop)
    assert steps == list(range(1, 101))
    assert bus.registry.workers == ()


def test_closing_ends_the_thread_and_another_run_starts_a_new_one(
    bus: EventBus, loop: Emitter
) -> None:
    first = started(bus, loop, "between runs")
    close(loop)
    assert is_ended(first)
    again = bus.bind(sender="train")
    finish(again)
    finish(again, 2)
    (second,) = threads_of("between runs")
    assert second is not first
    close(again)
    assert is_ended(second)


def test_an_inner_run_does_not_end_the_thread(bus: EventBus, loop: Emitter) -> None:
    thread = started(bus, loop, "inner")
    inner = bus.bind(sender="inner", parent=loop)
    close(inner)
    finish(loop, 2)
    assert threads_of("inner") == [thread]
    close(loop)
    assert is_ended(thread)


def test_a_handler_is_held_until_it_is_detached(bus: EventBus, loop: Emitter) -> None:
    class Log:
        def __init__(self) -> None:
            self.steps: list[int] = []

        def __call__(self, step: int) -> None:
            self.steps.append(step)

    log = Log()
    steps, held = log.steps, weakref.ref(log)
    bus.on("batch_finished", background=True)(log)
    del log
    gc.collect()
    finish(loop)
    settle(bus)
    assert steps == [1]
    bus.detach(held())
    close(loop)
    gc.collect()
    assert held() is None


def test_a_bus_that_is_gone_takes_its_threads_along() -> None:
    bus = EventBus()
    thread = started(bus, bus.bind(sender="train"), "of a bus that is gone")
    settle(bus)
    held = weakref.ref(bus)
    del bus
    gc.collect()
    assert held() is None
    assert is_ended(thread)


def test_a_thread_that_waits_keeps_no_model_alive(bus: EventBus) -> None:
    class Model:
        """Stands for a large one."""

    model = Model()
    held = weakref.ref(model)
    bus.on("batch_finished", background=True)(lambda event: None)
    loop = bus.bind(sender="train", model=model)
    backend = Backend()
    bus.on("batch_finished", background=Background(timeout_s=0.0))(
        lambda event: backend.send(event)
    )
    finish(loop)
    assert began(backend.began)
    close(loop)
    del loop, model
    gc.collect()
    assert held() is None
    backend.destroy()


def test_many_that_come_and_go_leave_nothing(bus: EventBus, loop: Emitter) -> None:
    for _ in range(50):
        with bus.attach(handles("batch_finished", background=True)(lambda step: None)):
            pass
    assert bus.registry.workers == ()


def test_a_failed_attach_leaves_nothing(bus: EventBus) -> None:
    class Half:
        @handles("batch_finished", background=True)
        def good(self) -> None: ...

        @handles("epoch_finished", background=True)
        def bad(self, model: Any) -> None: ...

    with pytest.raises(HandlerError, match="'model'"):
        bus.attach(Half())
    assert bus.subscriptions == ()
    assert bus.registry.workers == ()


def test_threads_may_emit_and_detach_at_once(bus: EventBus) -> None:
    barrier = threading.Barrier(4)
    counts: list[int] = []
    options = Background(size=10_000, timeout_s=PATIENCE_S)
    bus.on("batch_finished", background=options)(lambda step: counts.append(step))

    def train(number: int) -> None:
        loop = bus.bind(sender=f"train {number}")
        barrier.wait(PATIENCE_S)
        for step in range(1, 201):
            with bus.attach(handles("batch_finished", background=True)(lambda step: None)):
                finish(loop, step)

    threads = [threading.Thread(target=train, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    close(bus.bind())
    assert sorted(counts) == sorted(4 * list(range(1, 201)))


def test_an_inert_stub_takes_background_too(bus: EventBus) -> None:
    stub = pickle.loads(pickle.dumps(bus))
    calls: list[int] = []
    stub.on("batch_finished", background=True)(noting(calls))
    loop = stub.bind(sender="train")
    finish(loop)
    close(loop)
    assert calls == []


FORK_SCRIPT = """
import os, sys, threading
from eventbus import Background, EventBus, handles

bus, go, began, seen = EventBus(), threading.Event(), threading.Event(), []

@handles("batch_finished", background=Background(size=2, overflow="block", timeout_s=30))
def slow(step):
    began.set()
    go.wait(30)
    seen.append(step)

handle = bus.attach(slow)
loop = bus.bind(sender="train")
loop.emit("batch_finished", epoch=1, step=1)
began.wait(30)
loop.emit("batch_finished", epoch=1, step=2)
(worker,) = bus.registry.workers
with worker._backlog._changed:  # held at the fork, by the parent alone
    child = os.fork()
if child == 0:
    for step in range(3, 10):
        loop.emit("batch_finished", epoch=1, step=step)
        bus.signal("batch_finished").send("by hand", epoch=1, step=step)
    loop.emit("run_closed", outcome="completed")
    print(bus)
    handle.detach()
    del handle, worker, loop, bus
    import gc; gc.collect()
    sys.stdout.flush()
    os._exit(0 if threading.active_count() == 1 else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
go.set()
loop.emit("run_closed", outcome="completed")
print(seen)
"""


@pytest.mark.skipif("not hasattr(__import__('os'), 'fork')", reason="the OS has no fork")
def test_a_forked_copy_is_inert(tmp_path: Path) -> None:
    assert run_script(FORK_SCRIPT, tmp_path).splitlines()[-1] == "[1, 2]"


EXIT_SCRIPT = """
import threading
from eventbus import Background, EventBus
bus, began = EventBus(), threading.Event()

@bus.on("batch_finished", background=Background(timeout_s=0.05))
def hang(step):
    began.set()
    threading.Event().wait()

bus.bind().emit("batch_finished", epoch=1, step=1)
began.wait()
print("the end")
"""


def test_a_backend_that_hangs_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    assert run_script(EXIT_SCRIPT, tmp_path).strip() == "the end"


def test_a_loop_that_closes_no_run_loses_nothing_at_the_end_of_the_process(tmp_path: Path) -> None:
    assert run_script(UNCLOSED, tmp_path) == "uploaded 1\nuploaded 2\nuploaded 3\n"


UNCLOSED = """
import threading, time
from eventbus import Background, EventBus

bus = EventBus()

@bus.on("epoch_finished", background=Background(timeout_s=60))
def upload(epoch):
    threading.main_thread().join()  # until the interpreter has begun to end
    print("uploaded", epoch, flush=True)

loop = bus.bind(sender="train")
for epoch in (1, 2, 3):
    loop.emit("epoch_finished", epoch=epoch, step=10 * epoch)
"""


def test_what_does_not_end_is_told_of_at_the_end_of_the_process(tmp_path: Path) -> None:
    assert run_script(STUCK, tmp_path) == "handler 'upload': 2 emissions not handled\n"


STUCK = """
import logging, sys, threading
from eventbus import Background, EventBus

class Shown(logging.Handler):
    def emit(self, record):
        print(record.getMessage().partition(" when the process ended")[0], flush=True)

logging.getLogger("eventbus").addHandler(Shown())
bus = EventBus()
bus.on("epoch_finished", name="upload", background=Background(timeout_s=0.05))(
    lambda epoch: threading.Event().wait()
)
for epoch in (1, 2):
    bus.emit("epoch_finished", epoch=epoch, step=epoch)
"""
