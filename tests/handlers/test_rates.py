"""Rates and progress, on a clock that is turned by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.handlers._rates import Progress, Throughput, size_of, spell

from .reporting import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(now=1000.0)


@pytest.fixture
def throughput(clock: Clock) -> Throughput:
    throughput = Throughput(clock)
    throughput.resume()
    return throughput


@pytest.fixture
def progress(clock: Clock) -> Progress:
    return Progress(clock)


def test_a_rate_is_that_since_the_last_time_it_was_read(
    throughput: Throughput, clock: Clock
) -> None:
    throughput.add(30)
    clock.now += 3
    assert throughput.read() == 10
    throughput.add(2)
    clock.now += 1
    assert throughput.read() == 2


def test_a_rate_leaves_pauses_out(throughput: Throughput, clock: Clock) -> None:
    clock.now += 1
    throughput.add(10)
    throughput.pause()
    throughput.pause()
    clock.now += 100
    throughput.resume()
    clock.now += 1
    throughput.add(10)
    assert throughput.read() == 10


def test_a_rate_read_in_a_pause_stays_paused(throughput: Throughput, clock: Clock) -> None:
    clock.now += 1
    throughput.add(10)
    throughput.pause()
    assert throughput.read() == 10
    clock.now += 100
    throughput.resume()
    clock.now += 1
    throughput.add(7)
    assert throughput.read() == 7


def test_a_rate_is_unknown_before_time_has_passed_or_anything_was_counted(
    throughput: Throughput, clock: Clock
) -> None:
    throughput.add(10)
    assert throughput.read() is None
    clock.now += 1
    assert throughput.read() is None


def test_what_ends_a_pause_by_itself_is_not_counted(clock: Clock) -> None:
    throughput = Throughput(clock)
    clock.now += 5
    throughput.add(1000)
    clock.now += 1
    throughput.add(10)
    assert throughput.read() == 10


@pytest.mark.parametrize(
    ("totals", "epoch", "step", "fraction"),
    [
        ((None, None), 1, 5, None),
        ((None, 20), 1, 5, 0.25),
        ((4, None), 1, 10, None),  # how long an epoch is, nobody has told
        ((4, 20), 2, 15, 0.75),  # whichever comes first
        ((1, 10), 3, 40, 1.0),  # never more than all
    ],
)
def test_the_part_that_is_done_follows_from_the_totals(
    totals: tuple[int | None, int | None], epoch: int, step: int, fraction: float | None
) -> None:
    progress = Progress(Clock())
    progress.start(*totals)
    progress.start_epoch(epoch, 0)
    progress.reach(epoch, step)
    assert progress.fraction() == fraction


def test_an_epoch_is_measured_by_the_one_before(progress: Progress) -> None:
    progress.start(epochs=4)
    progress.start_epoch(1, 0)
    progress.reach(1, 10)
    progress.finish_epoch(1, 10)
    assert progress.fraction() == 0.25
    progress.start_epoch(2, 10)
    assert progress.fraction() == 0.25
    progress.reach(2, 15)
    assert progress.fraction() == 0.375


def test_an_epoch_cut_short_is_no_measure(progress: Progress) -> None:
    progress.start(epochs=4)
    progress.start_epoch(1, 0)
    progress.finish_epoch(1, 3, complete=False)
    assert progress.steps_per_epoch is None
    assert progress.fraction() == 0.25


def test_a_loop_that_starts_no_epochs_has_progress_too(progress: Progress) -> None:
    progress.start(epochs=2)
    for step in range(1, 11):
        progress.reach(1, step)
    progress.finish_epoch(1, 10)
    progress.reach(2, 11)
    assert progress.fraction() == 0.55


def test_the_length_of_the_loader_counts_for_its_epoch_only(progress: Progress) -> None:
    progress.start(epochs=2)
    progress.start_epoch(1, 0)
    progress.batches, progress.batch_index = 8, 4
    assert progress.of_epoch() == 0.5
    progress.start_epoch(2, 4)
    assert progress.batches is None


def test_the_time_left_is_unknown_until_something_was_done(
    progress: Progress, clock: Clock
) -> None:
    progress.start(steps=10)
    progress.start_epoch(1, 0)
    clock.now += 5
    assert progress.eta_s() is None
    progress.reach(1, 1)
    assert progress.eta_s() == pytest.approx(45)


def test_the_time_left_does_not_count_what_was_done_before_a_resume(
    progress: Progress, clock: Clock
) -> None:
    progress.start(steps=100, resumed=True)
    progress.start_epoch(1, 50)
    progress.reach(1, 51)
    clock.now += 10
    progress.reach(1, 61)
    assert progress.eta_s() == pytest.approx(39)
    assert progress.elapsed_s == 10


class WithoutLength:
    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __len__(self) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("loader", "size"),
    [
        ([1, 2], 2),
        (iter([1]), None),
        (WithoutLength(TypeError), None),
        (WithoutLength(NotImplementedError), None),
    ],
)
def test_the_size_of_a_loader_may_be_unknown(loader: Any, size: int | None) -> None:
    assert size_of(loader) == size


@given(st.floats(min_value=0, max_value=1e9))
def test_a_spelt_duration_says_its_seconds(seconds: float) -> None:
    days, _, rest = spell(seconds).rpartition("d ")
    total = 0
    for part in rest.split(":"):
        total = 60 * total + int(part)
    assert total + 86_400 * int(days or 0) == round(seconds)
