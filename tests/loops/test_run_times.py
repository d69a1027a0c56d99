"""What the times in the signals count, on a clock that goes only when told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventbus import EventBus
from eventbus.loops import Run
from eventbus.testing import FakeClock

from .transcripts import Transcript


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    for module in ("_batch", "_loader", "_validation"):
        monkeypatch.setattr(f"eventbus.loops.{module}.perf_counter", clock)
    return clock


def slow_loader(clock: FakeClock, seconds: list[float]) -> Iterator[float]:
    for each in seconds:
        clock.advance(each)
        yield each


def test_waiting_for_data_and_working_on_it_are_counted_apart(
    bus: EventBus, transcript: Transcript, clock: FakeClock
) -> None:
    bus.on("batch_loaded", "batch_started")(lambda: clock.advance(100))  # handlers' time is theirs
    with Run(bus) as run:
        for _ in run.batches(slow_loader(clock, [2, 3])):
            clock.advance(5)
    steps = transcript.of("batch_finished")
    assert [fields["data_wait_s"] for fields in steps] == [2, 3]
    assert [fields["duration_s"] for fields in steps] == [5, 5]


def test_the_times_of_micro_batches_add_up(
    bus: EventBus, transcript: Transcript, clock: FakeClock
) -> None:
    with Run(bus) as run:
        for wait in run.batches(list(slow_loader(clock, [2, 3])), accumulate=2):
            clock.advance(wait)
    (fields,) = transcript.of("batch_finished")
    assert (fields["duration_s"], fields["data_wait_s"]) == (5, 0)


def test_the_time_of_a_validation_is_not_that_of_the_step_around_it(
    bus: EventBus, transcript: Transcript, clock: FakeClock
) -> None:
    with Run(bus) as run:
        for _ in run.steps(1):
            clock.advance(1)
            for _ in run.validate(slow_loader(clock, [20])):
                clock.advance(300)
            clock.advance(1)
    (step,) = transcript.of("batch_finished")
    (batch,) = transcript.of("validation_batch_finished")
    assert step["duration_s"] == 2
    assert (batch["duration_s"], batch["data_wait_s"]) == (300, 20)
