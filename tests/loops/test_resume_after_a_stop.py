"""A run that a `Stop` ended and that is resumed draws and reads what one never stopped would."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus, Stop, StopEpoch, at
from eventbus.handlers import Checkpoint
from eventbus.loops import ResumableSampler, Run

DATA: Any = range(5)


def bus_saving_in(folder: Path) -> EventBus:
    bus = EventBus()
    bus.attach(Checkpoint(folder, best=None, resume="auto"))
    return bus


def draws_of(bus: EventBus, stop_at: int | None = None) -> list[float]:
    """Validate once an epoch, for two epochs, in bodies that draw numbers."""
    drawn: list[float] = []
    with Run(bus) as run:
        for _ in run.epochs(2):
            for _batch in run.batches([1]):
                run.report(loss=0.0)
            for number in run.validate(range(3)):
                drawn.append(random.random())
                run.report(loss=0.0)
                if (run.epoch, number) == (1, stop_at):
                    bus.answer(Stop("SIGTERM"))
    return drawn


def test_a_validation_that_a_stop_cut_draws_the_same_numbers_when_it_is_done_again(
    tmp_path: Path,
) -> None:
    random.seed(1)
    whole = draws_of(EventBus())
    random.seed(1)
    first = draws_of(bus_saving_in(tmp_path), stop_at=1)
    assert first == whole[:2]
    random.seed(2)
    resumed = draws_of(bus_saving_in(tmp_path))
    assert resumed == whole


def losses_of(bus: EventBus, stop_at: int | None = None) -> list[tuple[int, float]]:
    """Take the mean of a validation by hand, as most scripts do; it fails where there is none."""
    taken = []
    with Run(bus) as run:
        for _ in run.epochs(2):
            for _batch in run.batches([1, 2, 3]):
                taken.append((run.step, random.random()))
                if run.step == stop_at:
                    bus.answer(Stop("SIGTERM"))
                run.report(loss=0.0)
            losses = []
            for _batch in run.validate([1, 2]):
                losses.append(random.random())
                run.report(loss=losses[-1])
            run.report(mean=sum(losses) / len(losses))
    return taken


def test_what_a_stop_has_cut_is_saved_though_the_body_fails_of_it(tmp_path: Path) -> None:
    random.seed(1)
    whole = losses_of(EventBus())
    random.seed(1)
    with pytest.raises(ZeroDivisionError) as failed:
        losses_of(bus_saving_in(tmp_path), stop_at=5)
    (note,) = failed.value.__notes__
    assert note.startswith("run.validate gave not all batches of 'val'")
    assert "if not run.interrupted:" in note
    assert "run.metrics['val_loss']" in note
    random.seed(2)
    assert losses_of(bus_saving_in(tmp_path)) == whole[5:]


def test_a_body_that_fails_of_a_validation_that_was_done_before_is_told_where_its_result_is(
    tmp_path: Path,
) -> None:
    def live() -> None:
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, on="validation_done", best=None, resume="auto"))
        bus.on("validation_done", when=at(1), priority=-10_000)(fail)
        losses_of(bus)

    def fail() -> None:
        raise RuntimeError("lost the device")

    with pytest.raises(RuntimeError):
        live()
    with pytest.raises(ZeroDivisionError) as failed:
        live()
    (note,) = failed.value.__notes__
    assert note.startswith("validation 'val' was done before the checkpoint")
    assert note.endswith("take its result from run.metrics['val_loss']")


def test_a_body_that_fails_in_a_later_epoch_is_not_told_of_a_validation(tmp_path: Path) -> None:
    def live(fail_in: int) -> None:
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, on="validation_done", best=None, resume="auto"))
        with Run(bus) as run:
            for epoch in run.epochs(3):
                for _batch in run.validate([1]):
                    run.report(loss=0.0)
                if epoch == fail_in:
                    raise ValueError("bad")

    for fail_in in (1, 2):
        with pytest.raises(ValueError, match="bad") as failed:
            live(fail_in)
        assert not hasattr(failed.value, "__notes__")


class Drawing:
    """Batches that are drawn as they are loaded; the signal comes within one."""

    def __init__(self, bus: EventBus, stop_at: int | None) -> None:
        self.bus, self.stop_at = bus, stop_at

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[tuple[int, float]]:
        for number in range(4):
            drawn = random.random()
            if number == self.stop_at:
                self.bus.answer(Stop("SIGTERM"))
            yield number, drawn


def batches_of(
    bus: EventBus, stop_at: int | None = None, accumulate: int = 1
) -> list[tuple[int, float]]:
    with Run(bus) as run:
        return [
            batch
            for _ in run.epochs(1)
            for batch in run.batches(Drawing(bus, stop_at), accumulate=accumulate)
        ]


def test_a_batch_within_whose_loading_a_stop_came_is_not_drawn_twice(tmp_path: Path) -> None:
    random.seed(1)
    bus = bus_saving_in(tmp_path)
    assert [number for number, _ in batches_of(bus, stop_at=1)] == [0, 1]
    random.seed(1)
    whole = batches_of(EventBus())
    random.seed(1)  # the loader reads again from its beginning
    resumed = batches_of(bus_saving_in(tmp_path))
    assert [number for number, _ in resumed] == [2, 3]
    assert whole[0] != whole[2]


def test_the_micro_batches_of_a_step_are_taken_together_though_a_stop_comes(
    tmp_path: Path,
) -> None:
    first = batches_of(bus_saving_in(tmp_path), stop_at=0, accumulate=2)
    resumed = batches_of(bus_saving_in(tmp_path), accumulate=2)
    assert [number for number, _ in first] == [0, 1]
    assert [number for number, _ in resumed] == [2, 3]


def read_by(bus: EventBus, loader: Any, stop_at: int | None = None) -> list[list[int]]:
    epochs: list[list[int]] = []
    with Run(bus) as run:
        for _ in run.epochs(2):
            epochs.append([])
            for batch in run.batches(loader):
                epochs[-1].append(int(batch))
                if run.step == stop_at:
                    bus.answer(Stop("SIGTERM"))
    return epochs


def plain_loader() -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    torch.manual_seed(1)
    return StatefulDataLoader(DATA, batch_size=1, shuffle=True)


def loader_with_our_sampler() -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(DATA, batch_size=1, sampler=ResumableSampler(5, seed=1))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's own
@pytest.mark.parametrize("make_loader", [plain_loader, loader_with_our_sampler])
@pytest.mark.parametrize("stop_at", [3, 5])
def test_a_loader_with_a_state_reads_on_in_the_same_order(
    tmp_path: Path, make_loader: Callable[[], Any], stop_at: int
) -> None:
    whole = read_by(EventBus(), make_loader())
    first = read_by(bus_saving_in(tmp_path), make_loader(), stop_at=stop_at)
    assert first == [whole[0][:stop_at]]
    resumed = read_by(bus_saving_in(tmp_path), make_loader())
    assert list(chain(*first, *resumed)) == list(chain(*whole))


def shuffled_loader() -> Any:
    torch.manual_seed(1)
    return torch.utils.data.DataLoader(DATA, batch_size=1, shuffle=True)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's own
def test_the_loader_of_an_earlier_epoch_is_let_go_once_the_next_one_has_begun() -> None:
    alive: list[weakref.ref[Any]] = []
    with Run(EventBus()) as run:
        for _ in run.epochs(3):
            loader = plain_loader()
            alive.append(weakref.ref(loader))
            for _batch in run.batches(loader):
                run.report(loss=0.0)
            del loader
            gc.collect()
            assert [one() is not None for one in alive[:-1]] == [False] * (len(alive) - 1)


def passes_by(bus: EventBus, loader: Any, stop_at: int | None = None) -> list[int]:
    """Read a loader three times, without epochs."""
    read: list[int] = []
    with Run(bus) as run:
        for _ in range(3):
            for batch in run.batches(loader):
                read.append(int(batch))
                if run.step == stop_at:
                    bus.answer(Stop("SIGTERM"))
    return read


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's own
@pytest.mark.parametrize("stop_at", [3, 5, 8, 10])
def test_a_loader_with_a_state_goes_from_pass_to_pass_without_epochs(
    tmp_path: Path, stop_at: int
) -> None:
    whole = passes_by(EventBus(), plain_loader())
    first = passes_by(bus_saving_in(tmp_path), plain_loader(), stop_at=stop_at)
    assert first == whole[:stop_at]
    assert first + passes_by(bus_saving_in(tmp_path), plain_loader()) == whole


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's own
@pytest.mark.parametrize("make_loader", [shuffled_loader, plain_loader, loader_with_our_sampler])
@pytest.mark.parametrize("signal", ["batch_loaded", "batch_started"])
@pytest.mark.parametrize("read", [read_by, passes_by])
def test_a_batch_that_a_handler_refuses_is_read_again_the_last_of_its_pass_too(
    tmp_path: Path, make_loader: Callable[[], Any], signal: str, read: Callable[..., Any]
) -> None:
    whole = read(EventBus(), make_loader())
    for step in (4, 5, 6, 10):
        bus = bus_saving_in(tmp_path / str(step))
        bus.on(signal, when=at(step))(refuse)
        first = read(bus, make_loader())
        resumed = read(bus_saving_in(tmp_path / str(step)), make_loader())
        assert flat(first) == flat(whole)[: step - 1]
        assert flat(first) + flat(resumed) == flat(whole)


def refuse() -> Stop:
    return Stop("not this one")


def flat(batches: list[Any]) -> list[int]:
    return list(chain(*batches)) if isinstance(batches[0], list) else batches


def epochs_cut_by(
    folder: Path, answers: tuple[Stop | StopEpoch, ...], kills: bool
) -> list[tuple[int, int, bool]]:
    """Answer on step 3, the decision of whose epoch is to be in the checkpoint of that step."""
    bus, ends = EventBus(), list[tuple[int, int, bool]]()
    bus.attach(Checkpoint(folder, on="batch_finished", best=None, resume="auto"))

    @bus.on("batch_finished", when=at(3))
    def enough() -> Any:
        return answers

    @bus.on("epoch_finished")
    def note(epoch: int, step: int, complete: bool) -> None:
        ends.append((epoch, step, complete))

    generator = torch.Generator().manual_seed(1)
    loader = torch.utils.data.DataLoader(DATA, shuffle=True, generator=generator)
    with Run(bus) as run:
        for _ in run.epochs(2):
            for data in (loader, range(2)):
                for batch in run.batches(data):
                    run.report(loss=float(batch))
            if kills:
                raise KeyboardInterrupt
            for _batch in run.validate([1]):
                run.report(loss=0.0)
    return [*ends, (0, int(1000 * sum(run.metrics.values())), True)]


@pytest.mark.parametrize(
    ("others", "kills"), [((), True), ((Stop("SIGTERM"),), True), ((Stop("SIGTERM"),), False)]
)
def test_an_epoch_that_an_answer_has_ended_ends_there_in_a_resumed_run(
    others: tuple[Stop, ...], kills: bool, tmp_path: Path
) -> None:
    whole = epochs_cut_by(tmp_path / "whole", (StopEpoch("enough"),), kills=False)
    with pytest.raises(KeyboardInterrupt) if kills else nullcontext():
        epochs_cut_by(tmp_path / "run", (StopEpoch("enough"), *others), kills)
    assert whole[0] == (1, 3, False)
    assert epochs_cut_by(tmp_path / "run", (), kills=False) == whole
