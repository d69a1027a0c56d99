"""The queue behind what a run must not wait for: order, bounds, errors, and work that hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from eventbus.handlers._outbox import Outbox

LONG_S = 60.0  # a test that waits for so long has failed


class Gate:
    """A job that hangs until it is let go."""

    def __init__(self) -> None:
        self.entered, self._open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self._open.wait(LONG_S)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def blocked(gate: Gate, capacity: int) -> Outbox:
    outbox = Outbox("test", capacity)
    outbox.put(gate)
    assert gate.entered.wait(LONG_S)
    return outbox


def test_jobs_are_done_in_order_off_the_callers_thread() -> None:
    outbox, threads, done = Outbox("test", 100), set[int](), list[int]()
    for number in range(50):
        outbox.put(partial(done.append, number))
        outbox.put(lambda: threads.add(threading.get_ident()))
    assert outbox.close(LONG_S) == 0
    assert done == list(range(50))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_no_thread_is_there_before_the_first_job_or_after_the_last() -> None:
    before = threading.enumerate()
    outbox = Outbox("test", 10)
    assert threading.enumerate() == before
    outbox.put(lambda: None)
    outbox.close(LONG_S)
    assert threading.enumerate() == before
    assert outbox.close(LONG_S) == 0


def test_what_fails_is_kept_and_the_next_job_is_done() -> None:
    outbox, done = Outbox("test", 10), list[str]()
    outbox.put(lambda: 1 / 0)
    outbox.put(lambda: exec("raise SystemExit(3)"))
    outbox.put(partial(done.append, "next"))
    outbox.close(LONG_S)
    assert [type(error) for error in outbox.take_errors()] == [ZeroDivisionError, SystemExit]
    assert outbox.take_errors() == []
    assert done == ["next"]


def test_where_there_is_no_room_the_new_job_is_dropped_and_counted(gate: Gate) -> None:
    outbox, done = blocked(gate, capacity=2), list[int]()
    put = [outbox.put(partial(done.append, n)) for n in range(4)]
    assert (put, outbox.dropped) == ([True, True, False, False], 2)
    gate.open()
    outbox.close(LONG_S)
    assert done == [0, 1]


def test_where_room_is_made_the_oldest_job_is_dropped_and_counted(gate: Gate) -> None:
    outbox, done = blocked(gate, capacity=2), list[int]()
    for n in range(4):
        outbox.put(partial(done.append, n), make_room=True)
    assert outbox.dropped == 2
    gate.open()
    outbox.close(LONG_S)
    assert done == [2, 3]


def test_closing_waits_no_longer_than_it_is_told_and_says_what_is_left(gate: Gate) -> None:
    outbox, done = blocked(gate, capacity=9), list[str]()
    outbox.put(partial(done.append, "forgotten"))
    assert outbox.close(timeout_s=0.0) == 2
    outbox.put(partial(done.append, "after"))  # by another thread: the first still hangs
    assert outbox.close(LONG_S) == 0
    gate.open()
    assert done == ["after"]


def test_a_thread_that_was_given_up_does_nothing_more(gate: Gate) -> None:
    outbox, other = blocked(gate, capacity=9), Gate()
    (hanging,) = (each for each in threading.enumerate() if each.name == "test")
    outbox.close(timeout_s=0.0)
    outbox.put(other)
    assert other.entered.wait(LONG_S)
    outbox.put(lambda: None)
    gate.open()
    hanging.join(LONG_S)
    assert not hanging.is_alive()
    assert outbox.close(timeout_s=0.0) == 2  # the job behind the second gate was left alone
    other.open()
