"""Threads: emitting, subscribing and detaching at once, with exact counts and no sleeping."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from eventbus import Emitter, EventBus, Stop, every, handles
from eventbus.emitter import LABELS
from eventbus.port import WARM, Port


def at_once(*tasks: Callable[[], object]) -> None:
    """Run the tasks in threads that start together; raise the first error of any."""
    barrier = threading.Barrier(len(tasks))
    errors: list[BaseException] = []

    def run(task: Callable[[], object]) -> None:
        try:
            barrier.wait()
            task()
        except BaseException as error:  # carried over to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


@contextmanager
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def unraisable_errors() -> Iterator[list[object]]:
    """What went wrong where Python can only print: in weakref callbacks and `__del__`."""
    seen: list[object] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda args: seen.append(args.exc_value)
    try:
        yield seen
    finally:
        sys.unraisablehook = before


def emit_many(bus: EventBus, sender: str, number: int) -> Callable[[], None]:
    loop = bus.bind(sender=sender)

    def task() -> None:
        for step in range(1, number + 1):
            loop.emit("batch_finished", epoch=1, step=step)

    return task


def come_and_go(bus: EventBus, number: int) -> Callable[[], None]:
    def task() -> None:
        for _ in range(number):

            def passing() -> None: ...

            bus.on("batch_finished", priority=number % 3)(passing)
            bus.detach(passing)

    return task


def connect_weakly(bus: EventBus, number: int) -> Callable[[], None]:
    def task() -> None:
        for count in range(number):

            def passing(sender: object, **fields: object) -> None: ...

            bus.signal("batch_finished").connect(passing)
            if count % 2:
                bus.signal("batch_finished").disconnect(passing)

    return task


def test_several_threads_may_emit_at_once(bus: EventBus) -> None:
    counts = {"a": 0, "b": 0, "c": 0}

    @bus.on("batch_finished")
    def count(sender: str) -> None:
        counts[sender] += 1

    at_once(*(emit_many(bus, sender, 500) for sender in counts))
    assert counts == {"a": 500, "b": 500, "c": 500}


def test_a_steady_handler_misses_nothing_while_others_come_and_go(bus: EventBus) -> None:
    steps: list[int] = []
    bus.on("batch_finished")(lambda step: steps.append(step))
    with switching_often():
        at_once(emit_many(bus, "train", 300), come_and_go(bus, 200), come_and_go(bus, 200))
    assert steps == list(range(1, 301))


def test_nothing_is_left_of_those_who_came_and_went(bus: EventBus) -> None:
    with switching_often():
        at_once(*(come_and_go(bus, 200) for _ in range(3)))
    assert not bus.signal("batch_finished").receivers


def test_emission_and_nesting_of_one_thread_do_not_leak_into_another(bus: EventBus) -> None:
    seen: list[tuple[str, int, str]] = []

    @bus.on("batch_finished")
    def measure(bus: EventBus, sender: str) -> None:
        bus.emit("metrics_measured", metrics={"of": sender})

    @bus.on("metrics_measured")
    def note(sender: str, step: int, metrics: dict[str, str]) -> None:
        seen.append((sender, step, metrics["of"]))

    with switching_often():
        at_once(emit_many(bus, "a", 200), emit_many(bus, "b", 200))
    for sender in ("a", "b"):
        mine = [(step, of) for who, step, of in seen if who == sender]
        assert mine == [(step, sender) for step in range(1, 201)]


def test_a_thread_started_in_a_handler_is_outside_the_emission(bus: EventBus) -> None:
    seen: list[dict[str, object]] = []
    bus.on("text_written")(lambda event: seen.append(dict(event.fields)))

    @bus.on("batch_finished")
    def write_elsewhere(bus: EventBus) -> None:
        thread = threading.Thread(target=lambda: bus.emit("text_written", tag="t", text="x"))
        thread.start()
        thread.join()

    bus.bind(sender="train").emit("batch_finished", epoch=1, step=9)
    assert seen == [{"tag": "t", "text": "x"}]


def test_a_handler_may_subscribe_from_a_thread_that_it_waits_for(bus: EventBus) -> None:
    """No lock is held while handlers run: otherwise this would hang."""
    late: list[int] = []

    @bus.once("batch_finished")
    def subscribe_elsewhere(bus: EventBus) -> None:
        def subscribe() -> None:
            bus.on("batch_finished")(lambda step: late.append(step))

        thread = threading.Thread(target=subscribe, daemon=True)
        thread.start()
        thread.join(timeout=30)
        assert not thread.is_alive()

    for step in (1, 2):
        bus.bind(sender="train").emit("batch_finished", epoch=1, step=step)
    assert late == [2]


def test_once_is_called_once_though_threads_race(bus: EventBus) -> None:
    with switching_often():
        for _ in range(50):
            calls: list[str] = []
            bus.once("batch_finished")(lambda sender, calls=calls: calls.append(sender))
            at_once(*(emit_many(bus, sender, 1) for sender in ("a", "b", "c")))
            assert len(calls) == 1


def test_an_emission_under_way_may_call_a_detached_handler_at_most_once_more(bus: EventBus) -> None:
    inside, detached = threading.Barrier(2), threading.Barrier(2)
    calls: list[int] = []

    @bus.on("batch_finished", priority=1)
    def wait(step: int) -> None:
        if step == 1:
            inside.wait(timeout=30)
            detached.wait(timeout=30)

    def other(step: int) -> None:
        calls.append(step)

    def detach() -> None:
        inside.wait(timeout=30)
        bus.detach(other)
        detached.wait(timeout=30)

    bus.on("batch_finished")(other)
    at_once(emit_many(bus, "train", 3), detach)
    assert calls in ([], [1])


def test_stops_from_handlers_in_several_threads_stay_in_their_runs(bus: EventBus) -> None:
    bus.on("batch_finished")(lambda sender, step: Stop(sender) if step == 100 else None)
    loops = {sender: bus.bind(sender=sender) for sender in "abc"}

    def task(sender: str) -> Callable[[], None]:
        def run() -> None:
            for step in range(1, 201):
                answers = loops[sender].emit("batch_finished", epoch=1, step=step)
                assert (answers.stop is not None) is (step >= 100)

        return run

    at_once(*(task(sender) for sender in loops))
    for sender, loop in loops.items():
        assert [answer.reason for answer in loop.answers] == [sender]


def test_answers_of_several_threads_to_one_run_are_all_kept(bus: EventBus) -> None:
    bus.on("text_written")(lambda tag: Stop(tag))
    loop = bus.bind(sender="train")

    def task(name: str) -> Callable[[], None]:
        def run() -> None:
            for number in range(100):
                loop.emit("text_written", tag=f"{name}{number}", text="")

        return run

    with switching_often():
        at_once(*(task(name) for name in "abc"))
    assert len(loop.answers) == 300


def test_answers_from_elsewhere_are_taken_once_though_threads_read_them(bus: EventBus) -> None:
    loop = bus.bind(sender="train")

    def give() -> None:
        for number in range(200):
            bus.answer(Stop(str(number)))

    def read() -> None:
        for _ in range(200):
            assert loop.answers is not None

    with switching_often():
        at_once(give, read, read, read)
    assert [answer.reason for answer in loop.answers] == [str(number) for number in range(200)]


def test_signals_may_be_declared_and_found_from_several_threads(bus: EventBus) -> None:
    found: list[object] = []

    def find() -> None:
        found.extend(bus.signal(f"signal_of_mine_{number}") for number in range(100))

    with switching_often():
        at_once(find, find, find)
    assert len({id(signal) for signal in found}) == 100


@pytest.mark.slow
def test_a_long_stress_leaves_no_error_and_no_receiver(bus: EventBus) -> None:
    counts = {"a": 0, "b": 0}

    @bus.on("batch_finished")
    def count(sender: str) -> None:
        counts[sender] += 1

    with switching_often(), unraisable_errors() as unraisable:
        at_once(
            emit_many(bus, "a", 20_000),
            emit_many(bus, "b", 20_000),
            come_and_go(bus, 3_000),
            connect_weakly(bus, 3_000),
            connect_weakly(bus, 3_000),
        )
        gc.collect()
    bus.bind(sender="a").emit("batch_finished", epoch=1, step=0)
    assert unraisable == []
    assert counts == {"a": 20_001, "b": 20_000}
    assert len(bus.signal("batch_finished").receivers) == 1


def test_each_emission_keeps_its_number_though_another_thread_comes_in_between(
    bus: EventBus,
) -> None:
    calls: list[int] = []

    def let_another_one_emit(number: int) -> bool:
        if number == 1:
            at_once(partial(bus.emit, "kittens_born", number=2))
        return False

    bus.on("kittens_born", when=let_another_one_emit | every(2))(
        lambda number: calls.append(number)
    )
    bus.emit("kittens_born", number=1)
    assert calls == [2]


def test_no_emission_is_lost_to_the_count_though_threads_emit(bus: EventBus) -> None:
    bus.on("kittens_born", when=every(2))(lambda: None)

    def emit() -> None:
        for _ in range(2000):
            bus.emit("kittens_born")

    with switching_often():
        at_once(emit, emit, emit)
    (counts,) = bus.emit("state_requested").state.values()
    assert list(counts.values()) == [6000]


def test_loops_by_hand_may_have_runs_open_in_several_threads(bus: EventBus) -> None:
    heard: list[str] = []
    bus.on("run_started")(lambda sender: heard.append(sender))
    loops = [bus.bind(sender=sender) for sender in "abc"]
    all_open = threading.Barrier(len(loops))

    def task(loop: Emitter) -> None:
        loop.emit("run_opened")
        all_open.wait(timeout=30)
        loop.emit("run_started")
        loop.emit("run_closed", outcome="completed")

    at_once(*(partial(task, loop) for loop in loops))
    assert sorted(heard) == ["a", "b", "c"]
    assert bus.open_runs == ()


def test_labels_and_runs_that_end_disturb_no_other_thread(bus: EventBus) -> None:
    def emit_under_many_labels(job: int) -> None:
        for index in range(300):
            bus.emit("batch_finished", epoch=1, step=index, sender=f"job-{job}-{index}")

    with switching_often():
        at_once(*(partial(emit_under_many_labels, job) for job in range(6)))
    assert len(bus.root._labelled) <= LABELS + 6


class Watcher:
    """Detaches its handler as the garbage collector takes it: it is in a cycle with itself."""

    def __init__(self, bus: EventBus) -> None:
        self.itself = self
        self.handle = bus.attach(handles("batch_finished")(lambda: None))

    def __del__(self) -> None:
        self.handle.detach()


def test_what_the_collector_detaches_in_the_midst_of_a_change_is_detached(bus: EventBus) -> None:
    signal = bus.signal("batch_finished")
    Watcher(bus)
    with signal._changing():
        gc.collect()
        bus.emit("batch_finished", epoch=1, step=1)  # as an OS signal may
    assert len(signal.receivers) == 0


def test_what_is_detached_while_a_function_is_installed_is_not_called(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    listener = bus.on("batch_finished")(lambda step: calls.append(step))
    settle = Port.settle

    def detach_meanwhile(port: Port[...], *functions: Any) -> None:
        bus.detach(listener)
        settle(port, *functions)

    monkeypatch.setattr(Port, "settle", detach_meanwhile)
    for step in range(WARM + 5):
        bus.emit("batch_finished", epoch=1, step=step)
    assert calls == list(range(WARM + 1))
