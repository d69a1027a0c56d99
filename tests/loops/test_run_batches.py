"""Loops over batches: accumulation, loaders, samplers, and loops by steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from eventbus import EventBus, RestoredState, SkipBatch, Stop, StopEpoch
from eventbus.loops import ResumableSampler, Run
from eventbus.loops._generators import RandomGenerators

from .transcripts import Transcript, answer_on


class Unsized:
    """A loader without a length that notes how far it was read."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = list(items)
        self.read: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.read.append(item)
            yield item


# -- accumulation


def boundaries(bus: EventBus, loader: Iterable[int], accumulate: int) -> list[bool]:
    seen = []
    with Run(bus) as run:
        for batch in run.batches(loader, accumulate=accumulate):
            seen.append(run.boundary)
            run.report(loss=float(batch), batch_size=batch)
    return seen


@pytest.mark.parametrize("loader", [[1, 2, 3, 4, 5], Unsized([1, 2, 3, 4, 5])])
def test_the_last_incomplete_group_is_a_step_too(
    bus: EventBus, transcript: Transcript, loader: Iterable[int]
) -> None:
    assert boundaries(bus, loader, 2) == [False, True, False, True, True]
    assert [line for line in transcript.lines if line.startswith("batch_")] == [
        "batch_loaded 0.1",
        "batch_started 0.1",
        "batch_loaded 0.1",
        "batch_finished 0.1",
        "batch_loaded 0.2",
        "batch_started 0.2",
        "batch_loaded 0.2",
        "batch_finished 0.2",
        "batch_loaded 0.3",
        "batch_started 0.3",
        "batch_finished 0.3",
    ]
    assert [f["batch_index"] for f in transcript.of("batch_loaded")] == [1, 2, 3, 4, 5]


def test_a_step_of_several_micro_batches_has_their_weighted_means(
    bus: EventBus, transcript: Transcript
) -> None:
    boundaries(bus, [1, 3], 2)
    (fields,) = transcript.of("batch_finished")
    assert (fields["batch_size"], fields["loss"]) == (4, 2.5)
    assert dict(fields["metrics"]) == {"loss": 2.5}


def test_a_loader_without_a_length_is_read_ahead_only_to_find_its_end(bus: EventBus) -> None:
    loader = Unsized(range(4))
    with Run(bus) as run:
        read = [(batch, len(loader.read)) for batch in run.batches(loader, accumulate=2)]
    assert read == [(0, 2), (1, 2), (2, 4), (3, 4)]


def test_without_accumulation_nothing_is_read_ahead(bus: EventBus) -> None:
    loader = Unsized(range(3))
    with Run(bus) as run:
        for place, _ in enumerate(run.batches(loader), start=1):
            assert len(loader.read) == place


@pytest.mark.parametrize("answer", [Stop("enough"), StopEpoch("enough")])
def test_an_end_within_a_group_waits_for_the_step_to_be_whole(
    bus: EventBus, transcript: Transcript, answer: Any
) -> None:
    seen = []
    with Run(bus) as run:
        for _ in run.epochs(1):
            for batch in run.batches(range(8), accumulate=4):
                seen.append((batch, run.boundary))
                run.report(loss=1.0)
                if batch == 1:
                    bus.answer(answer)
    assert seen == [(0, False), (1, False), (2, False), (3, True)]
    assert transcript.names.count("batch_finished") == 1
    ends = {"Stop": "epoch_interrupted 1.1 (enough)", "StopEpoch": "epoch_finished 1.1 (False)"}
    assert ends[type(answer).__name__] in transcript.lines


@pytest.mark.parametrize("answer", [Stop("enough"), StopEpoch("enough")])
def test_an_end_that_comes_while_a_batch_is_loaded_lets_its_step_be_taken(
    bus: EventBus, transcript: Transcript, answer: Any
) -> None:
    def loader() -> Iterator[int]:
        yield 0
        bus.answer(answer)
        yield 1
        yield 2

    with Run(bus) as run:
        for _ in run.epochs(1):
            assert list(run.batches(loader())) == [0, 1]
    assert transcript.names.count("batch_finished") == 2
    assert "batch_skipped" not in transcript.names


def test_break_within_a_group_skips_its_step(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for _ in run.batches([1, 2], accumulate=2):
            run.report(loss=1.0)
            break
    (skipped,) = transcript.of("batch_skipped")
    assert skipped["reason"] == "the loop ended within the micro-batches of the step"


def test_a_micro_batch_skipped_within_a_group_is_replaced_by_the_next(
    bus: EventBus, transcript: Transcript
) -> None:
    answer_on(bus, "batch_loaded", SkipBatch("not this one"), batch_index=2)
    with Run(bus) as run:
        seen = [(batch, run.boundary) for batch in run.batches([1, 2, 3, 4], accumulate=2)]
    assert seen == [(1, False), (3, True), (4, True)]
    assert transcript.names.count("batch_skipped") == 0


def test_a_micro_batch_that_the_loop_was_told_to_skip_is_in_no_mean(
    bus: EventBus, transcript: Transcript
) -> None:
    skips = iter([SkipBatch("spike"), None])
    bus.on("backward_finished")(lambda: next(skips))
    with Run(bus) as run:
        for size, loss in run.batches([(8, 100.0), (2, 1.0)], accumulate=2):
            run.report(loss=loss, batch_size=size)
            run.emit("backward_finished", loss=loss)
    (fields,) = transcript.of("batch_finished")
    assert (dict(fields["metrics"]), fields["batch_size"]) == ({"loss": 1.0}, 2)


def test_a_loader_shorter_than_its_length_skips_the_step_it_leaves_open(
    bus: EventBus, transcript: Transcript
) -> None:
    class Short(Unsized):
        def __len__(self) -> int:
            return 9

    assert boundaries(bus, Short([1, 2, 3]), 2) == [False, True, False]
    assert transcript.names.count("batch_finished") == 1
    assert transcript.names.count("batch_skipped") == 1


# -- loaders and samplers


def test_loader_opened_may_replace_the_loader_once_per_epoch(
    bus: EventBus, transcript: Transcript
) -> None:
    bus.on("loader_opened")(lambda loader, epoch: loader[:epoch])
    with Run(bus) as run:
        given = [list(run.batches([1, 2, 3])) for _ in run.epochs(2)]
    assert given == [[1], [1, 2]]
    assert [line for line in transcript.lines if line.startswith("loader")] == [
        "loader_opened 1.0",
        "loader_opened 2.1",
    ]


def test_samplers_are_told_the_epoch_counted_from_zero(bus: EventBus) -> None:
    data = TensorDataset(torch.arange(6))
    sampler: DistributedSampler[Any] = DistributedSampler(
        data, num_replicas=1, rank=0, shuffle=True
    )
    seen = []
    with Run(bus) as run:
        for _ in run.epochs(2):
            for _ in run.batches(DataLoader(data, sampler=sampler)):
                pass
            seen.append(sampler.epoch)
    assert seen == [0, 1]


def test_samplers_within_a_bar_of_tqdm_are_told_the_epoch(bus: EventBus) -> None:
    bar = pytest.importorskip("tqdm").tqdm
    data = TensorDataset(torch.arange(6))
    loader = DataLoader(data, sampler=ResumableSampler(data))
    with Run(bus) as run:
        seen = [
            [int(batch) for (batch,) in run.batches(bar(loader, disable=True))]
            for _ in run.epochs(2)
        ]
    first, second = ResumableSampler(6), ResumableSampler(6)
    second.set_epoch(1)
    assert seen == [list(first), list(second)]


def test_samplers_behind_a_batch_sampler_are_told_the_epoch_once(bus: EventBus) -> None:
    class Sampler:
        def __init__(self) -> None:
            self.epochs: list[int] = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    class BatchSampler(Sampler):
        def __init__(self, sampler: Sampler) -> None:
            super().__init__()
            self.sampler = sampler

    class Loader(Unsized):
        def __init__(self) -> None:
            super().__init__([1])
            self.sampler = Sampler()
            self.batch_sampler = BatchSampler(self.sampler)

    loader = Loader()
    with Run(bus) as run:
        for _ in run.batches(loader):
            pass
        for _ in run.epochs(2):
            for _ in run.batches(loader):
                pass
    assert loader.sampler.epochs == loader.batch_sampler.epochs == [0, 1]


def test_lengths_are_those_of_what_is_left(bus: EventBus) -> None:
    with Run(bus) as run:
        epochs = run.epochs(3)
        assert len(epochs) == 3
        next(epochs)
        assert len(run.batches([1, 2])) == len(run.validate([1, 2])) == 2
        with pytest.raises(TypeError):
            len(run.batches(Unsized([])))


def test_batch_index_counts_within_the_epoch(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for _ in run.epochs(2):
            for _ in range(2):
                list(run.batches([1, 2]))
    indices = [fields["batch_index"] for fields in transcript.of("batch_loaded")]
    assert indices == [1, 2, 3, 4] * 2


def test_batch_index_counts_within_the_pass_where_there_are_no_epochs(
    bus: EventBus, transcript: Transcript
) -> None:
    with Run(bus) as run:
        for _ in range(2):
            list(run.batches([1, 2]))
    assert [fields["batch_index"] for fields in transcript.of("batch_loaded")] == [1, 2, 1, 2]


def test_loops_that_are_over_stay_over(bus: EventBus) -> None:
    with Run(bus) as run:
        loops: list[Iterator[Any]] = [run.batches([1]), run.validate([1]), run.steps(2)]
        for loop in loops:
            list(loop)
            assert list(loop) == []
        epochs = run.epochs(1)
        list(epochs)
        assert list(epochs) == []


# -- loops by steps


def test_steps_count_from_one_without_an_epoch(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        given = []
        for step in run.steps(2):
            given.append((step, run.step, run.epoch, run.boundary))
            run.report(loss=float(step))
    assert given == [(1, 1, 0, True), (2, 2, 0, True)]
    assert transcript.lines == [
        "run_opened",
        "run_started",
        "batch_started 0.1",
        "batch_finished 0.1",
        "batch_started 0.2",
        "batch_finished 0.2",
        "run_finished 0.2 (completed)",
        "run_closed (completed)",
    ]
    assert transcript.of("run_started")[0]["steps"] == 2
    assert dict(run.metrics) == {"loss": 2.0}


def test_steps_have_no_batch_and_no_wait_for_data(bus: EventBus, transcript: Transcript) -> None:
    with Run(bus) as run:
        for _ in run.steps(1):
            run.report(batch_size=12)
    (fields,) = transcript.of("batch_finished")
    assert fields["batch_size"] == 12
    assert not {"batch", "data_wait_s"} & set(fields)


def test_a_skipped_step_comes_again_under_its_number(bus: EventBus, transcript: Transcript) -> None:
    skips = iter([None, SkipBatch("not now"), None])
    bus.on("batch_started")(lambda: next(skips))
    with Run(bus) as run:
        assert list(run.steps(2)) == [1, 2]
    assert [fields["step"] for fields in transcript.of("batch_started")] == [1, 2, 2]


def test_stop_ends_a_loop_by_steps(bus: EventBus, transcript: Transcript) -> None:
    answer_on(bus, "batch_finished", Stop("enough"), step=2)
    with Run(bus) as run:
        assert list(run.steps(9)) == [1, 2]
    assert transcript.lines[-2:] == ["run_finished 0.2 (enough)", "run_closed (stopped)"]


def test_steps_inside_an_epoch_end_with_it(bus: EventBus, transcript: Transcript) -> None:
    answer_on(bus, "batch_finished", StopEpoch("enough"), step=2)
    with Run(bus) as run:
        for epoch in run.epochs(2):
            for _ in run.steps(epoch * 4):
                pass
    assert [f["complete"] for f in transcript.of("epoch_finished")] == [False, True]
    assert run.step == 8


@pytest.mark.parametrize("loader", [5, None])
def test_what_cannot_be_iterated_over_is_refused_at_the_call(bus: EventBus, loader: Any) -> None:
    with Run(bus) as run:
        with pytest.raises(TypeError, match=rf"run.batches takes a loader, .*; got {loader!r}"):
            run.batches(loader)
        with pytest.raises(TypeError, match=rf"run.validate takes a loader, .*; got {loader!r}"):
            run.validate(loader)


def test_batches_inside_steps_are_refused(bus: EventBus) -> None:
    with Run(bus) as run:
        for _ in run.steps(1):
            with pytest.raises(RuntimeError, match=r"run\.batches\(\) inside run\.steps\(\)"):
                next(run.batches([1]))


# -- loops that have nothing to do


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="eventbus.loops")
    return caplog


def test_a_second_loop_over_the_same_number_of_epochs_is_told_once(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    with Run(bus) as run:
        assert list(run.epochs(3)) == [1, 2, 3]
        assert list(run.epochs(3)) == list(run.epochs(2)) == []
    (message,) = warnings.messages
    assert message == (
        "run.epochs(3) has nothing to do: it counts all epochs of the Run, which has done 3 "
        "(run.epochs(6) for 3 more, or another Run)"
    )


def test_a_loop_over_steps_in_each_epoch_is_told_that_its_number_counts_all(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    with Run(bus) as run:
        for _ in run.epochs(3):
            list(run.steps(4))
    (message,) = warnings.messages
    assert message.startswith(
        "run.steps(4) has nothing to do: it counts all steps of the Run, which"
    )


@pytest.mark.parametrize("signal", ["epoch_finished", "batch_finished"])
def test_nothing_is_told_of_loops_that_a_stop_leaves_without_work(
    bus: EventBus, warnings: pytest.LogCaptureFixture, signal: str
) -> None:
    answer_on(bus, signal, Stop("enough"))
    with Run(bus) as run:
        for _ in run.epochs(1):
            list(run.steps(1))
        assert list(run.steps(1)) == list(run.epochs(1)) == []
    assert not warnings.messages


def test_nothing_is_told_of_a_resumed_run_that_has_nothing_left(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    loop = {"epoch": 2, "step": 4, "rounds": {}}
    done = RestoredState({"loop": loop, "random": RandomGenerators().state_dict()})
    with Run(bus) as run:
        bus.emit("state_restored", state=done)
        for _ in run.epochs(2):
            pass
        assert list(run.steps(4)) == []
        assert (run.epoch, run.step) == (2, 4)
    assert not warnings.messages


@pytest.mark.parametrize("make", [iter, lambda data: (one for one in data), zip])
def test_data_that_is_used_up_is_told_once(
    bus: EventBus, warnings: pytest.LogCaptureFixture, make: Callable[[list[int]], Iterable[Any]]
) -> None:
    data = make([1, 2, 3])
    with Run(bus) as run:
        for _ in run.epochs(3):
            list(run.batches(data))
    (message,) = warnings.messages
    kind = type(data).__name__
    assert message.startswith(f"epoch 2 had no batch: the {kind} that run.batches was given seems")


def test_data_that_is_used_up_outside_of_epochs_is_told(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    data = iter([1, 2])
    with Run(bus) as run:
        list(run.batches(data))
        list(run.batches(data))
    (message,) = warnings.messages
    assert message.startswith("a pass over the data had no batch: the list_iterator")


def test_a_loop_that_leaves_its_data_by_break_is_told_where_it_is_used_up(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    data = iter([1, 2])
    with Run(bus) as run:
        for _ in run.epochs(3):
            for _ in run.batches(data):
                run.report(loss=1.0)
                break
    (message,) = warnings.messages
    assert message.startswith("epoch 3 had no batch")


def test_nothing_is_told_of_data_that_is_empty(
    bus: EventBus, warnings: pytest.LogCaptureFixture
) -> None:
    empty: Iterator[int] = iter([])
    emptied = [1, 2]
    with Run(bus) as run:
        for _ in run.epochs(3):
            list(run.batches(emptied))
            list(run.batches(empty))
            emptied.clear()
    assert not warnings.messages
