"""Background handlers whose backend is slow or never answers: the loop does not wait for it."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from eventbus import Background, Emitter, EventBus, Stop, handles

from .backends import PATIENCE_S, QUICK, Backend, began, is_ended, noting, settle, threads_of
from .recorders import finish

NEVER = None
LATENCIES_S = [0.01, 1.0, NEVER]


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    made = Backend(getattr(request, "param", NEVER))
    yield made
    made.destroy()


def close(loop: Emitter) -> None:
    loop.emit("run_closed", outcome="completed")


@pytest.mark.parametrize("backend", LATENCIES_S, indirect=True)
@pytest.mark.parametrize("overflow", ["drop_oldest", "latest"])
def test_an_emission_does_not_wait_for_the_backend(
    bus: EventBus, loop: Emitter, backend: Backend, overflow: Any
) -> None:
    bus.on("batch_finished", background=Background(size=3, overflow=overflow))(
        lambda step: backend.send(step)
    )
    finish(loop)
    assert began(backend.began)
    for step in range(2, 101):
        finish(loop, step)
    assert (backend.taken, backend.answered) == ([1], [])  # it is still in its first call


@pytest.mark.parametrize(
    ("backend", "timeout_s", "answered"),
    [(0.01, PATIENCE_S, [1, 2, 3, 4]), (1.0, 0.05, []), (NEVER, 0.05, [])],
    indirect=["backend"],
)
def test_a_run_closes_in_time(
    bus: EventBus,
    backend: Backend,
    timeout_s: float,
    answered: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = bus.bind(sender="train")
    bus.on("batch_finished", background=Background(timeout_s=timeout_s), name="upload")(
        lambda step: backend.send(step)
    )
    for step in range(1, 5):
        finish(loop, step)
    backend.release()
    close(loop)
    assert backend.answered == answered
    left = [] if answered else [f"handler 'upload': 4 emissions not handled when {CLOSED}"]
    assert caplog.messages == left


CLOSED = "the run was closed, after 0.05 s"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each wait with a limit may take, in seconds."""
    waits: list[float] = []
    wait_for = threading.Condition.wait_for

    def noting_wait(self: Any, predicate: Any, timeout: float | None = None) -> Any:
        if timeout is not None:
            waits.append(timeout)
        return wait_for(self, predicate, timeout)

    monkeypatch.setattr(threading.Condition, "wait_for", noting_wait)
    return waits


def test_several_backends_that_hang_are_waited_for_together(
    bus: EventBus, loop: Emitter, backend: Backend, waits: list[float]
) -> None:
    for _ in range(3):
        bus.on("batch_finished", background=QUICK)(lambda step: backend.send(step))
    finish(loop)
    close(loop)
    assert [timeout > 0 for timeout in waits] == [True, False, False]


def test_a_backend_that_hangs_is_waited_for_once(
    bus: EventBus, backend: Backend, waits: list[float]
) -> None:
    bus.on("batch_finished", background=QUICK)(lambda step: backend.send(step))
    for _ in range(3):
        loop = bus.bind(sender="train")
        finish(loop)
        close(loop)
    assert [timeout > 0 for timeout in waits] == [True, False, False]


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_oldest", [1, 8, 9, 10]), ("latest", [1, 10])]
)
def test_what_gives_way_is_counted_and_reported(
    bus: EventBus,
    backend: Backend,
    overflow: Any,
    kept: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = bus.bind(sender="train")
    options = Background(size=3, overflow=overflow, timeout_s=PATIENCE_S)
    bus.on("batch_finished", background=options, name="upload")(lambda step: backend.send(step))
    finish(loop)
    assert began(backend.began)
    for step in range(2, 11):
        finish(loop, step)
    backend.destroy()  # it answers from now on
    close(loop)
    assert backend.answered == kept
    dropped = 10 - len(kept)
    assert f"upload  background, {dropped} dropped" in bus.describe()
    at_once = ["handler 'upload' is slower than the loop: emissions are dropped"]
    at_the_end = [f"handler 'upload': {dropped} emissions dropped"]
    assert caplog.messages == (at_once if overflow == "drop_oldest" else []) + at_the_end


def test_drops_are_reported_once(
    bus: EventBus, loop: Emitter, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    options = Background(size=1, overflow="latest", timeout_s=0.01)
    bus.on("batch_finished", background=options, name="upload")(lambda step: backend.send(step))
    finish(loop)
    assert began(backend.began)
    finish(loop, 2)
    finish(loop, 3)
    (thread,) = threads_of("upload")
    close(loop)
    backend.destroy()
    assert is_ended(thread)
    caplog.clear()
    close(bus.bind())
    assert caplog.messages == []


def test_block_loses_nothing(bus: EventBus, loop: Emitter) -> None:
    steps: list[int] = []
    options = Background(size=1, overflow="block", timeout_s=PATIENCE_S)
    bus.on("batch_finished", background=options)(noting(steps))
    for step in range(1, 301):
        finish(loop, step)
    close(loop)
    assert steps == list(range(1, 301))
    assert "dropped" not in bus.describe()


def test_block_makes_the_loop_wait_for_a_place(
    bus: EventBus, loop: Emitter, backend: Backend
) -> None:
    options = Background(size=1, overflow="block", timeout_s=PATIENCE_S)
    bus.on("batch_finished", background=options)(lambda step: backend.send(step))
    emitted: list[int] = []

    def train() -> None:
        for step in (1, 2, 3, 4):
            finish(loop, step)
            emitted.append(step)

    training = threading.Thread(target=train)
    training.start()
    assert began(backend.began)
    assert 3 not in emitted  # one is under way, one waits; there is no place for a third
    backend.destroy()
    training.join(PATIENCE_S)
    close(loop)
    assert (emitted, backend.answered) == ([1, 2, 3, 4], [1, 2, 3, 4])


def test_a_handler_that_emits_into_its_own_full_queue_does_not_hang(
    bus: EventBus, loop: Emitter
) -> None:
    options = Background(size=1, overflow="block", timeout_s=PATIENCE_S)
    steps: list[int] = []

    def echo(step: int, bus: EventBus) -> None:
        steps.append(step)
        if step == 1:
            for again in (2, 3):
                bus.emit("batch_finished", epoch=1, step=again)

    bus.on("batch_finished", background=options)(echo)
    finish(loop)
    close(loop)
    assert steps == [1, 3]


class Payload:
    """Something large that can be referenced weakly."""


@pytest.mark.parametrize(("overflow", "most"), [("drop_oldest", 5), ("latest", 2)])
def test_memory_is_bounded_while_nothing_answers(
    bus: EventBus, loop: Emitter, backend: Backend, overflow: Any, most: int
) -> None:
    options = Background(size=4, overflow=overflow, timeout_s=0.01)
    bus.on("batch_finished", background=options)(lambda batch: backend.send(batch))
    alive: weakref.WeakSet[Payload] = weakref.WeakSet()
    for step in range(1, 1001):
        payload = Payload()
        alive.add(payload)
        loop.emit("batch_finished", epoch=1, step=step, batch=payload)
        del payload
        if step == 1:
            assert began(backend.began)
    gc.collect()
    assert len(alive) == most


def test_nothing_is_held_once_it_was_handled(bus: EventBus, loop: Emitter) -> None:
    bus.on("batch_finished", background=True)(lambda batch: None)
    payload = Payload()
    held = weakref.ref(payload)
    loop.emit("batch_finished", epoch=1, step=1, batch=payload)
    del payload
    settle(bus)
    assert held() is None


def test_an_answer_that_comes_after_the_run_is_not_for_the_next_one(
    bus: EventBus, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    bus.on("stop_requested")(lambda reason: told.append(reason))

    def late(step: int) -> Stop:
        backend.send(step)
        return Stop("late")

    bus.on("batch_finished", background=QUICK, name="judge")(late)
    first = bus.bind(sender="train")
    finish(first)
    (thread,) = threads_of("judge")
    close(first)
    backend.destroy()
    assert is_ended(thread)
    second = bus.bind(sender="train")
    assert second.emit("epoch_started", epoch=1, step=0).stop is None
    assert told == []
    assert "handler 'judge'" in caplog.messages[-1]
    assert "after the run was closed" in caplog.messages[-1]


class Uploader:
    """Keeps a state, and works in the background."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.seen = 0

    @handles("batch_finished")
    def upload(self, step: int) -> None:
        self.backend.send(step)
        self.seen += 1

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def test_a_state_waits_for_what_was_emitted_before(bus: EventBus, loop: Emitter) -> None:
    backend = Backend()
    backend.release()
    bus.attach(Uploader(backend), background=Background(timeout_s=PATIENCE_S))
    for step in range(1, 51):
        finish(loop, step)
    assert loop.emit("state_requested").state["Uploader"] == {"seen": 50}


def test_a_state_does_not_wait_for_ever(
    bus: EventBus, loop: Emitter, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    bus.attach(Uploader(backend), background=QUICK)
    finish(loop)
    with caplog.at_level(logging.WARNING):
        assert loop.emit("state_requested").state["Uploader"] == {"seen": 0}
    assert caplog.messages == ["handler 'Uploader': its state is read, and misses 1 emission"]
