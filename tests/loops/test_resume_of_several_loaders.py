"""Loaders read in turns at one place, and samplers of one's own: a resumed run has their orders."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.handlers._checkpoint_files import Folder, load_newest
from eventbus.handlers._files import Files
from eventbus.loops import ResumableSampler, Run
from eventbus.loops._loaders import Loaders

EPOCHS, SAMPLES = 6, 8

Orders = dict[int, list[list[int]]]
Read = Callable[[int], Iterable[Any]]
"""What an epoch reads."""


class Cut(BaseException):
    """The process is gone: nothing after it is written."""


def loader(seed: int, samples: int = SAMPLES, **options: Any) -> Iterable[Any]:
    own = torch.Generator().manual_seed(seed)
    return DataLoader(range(samples), 4, shuffle=True, generator=own, **options)  # type: ignore[arg-type]  # a range is a dataset


def train(
    folder: Path | None,
    make: Callable[[], Read],
    cut: int | None = None,
    on: str = "epoch_finished",
) -> Orders:
    """Train, without checkpoints if without a folder; cut before a step's report.

    Returns the order of each epoch.
    """
    torch.manual_seed(0)
    bus, read, orders = EventBus(), make(), Orders()
    if folder is not None:
        bus.attach(Checkpoint(folder, on=on, best=None, resume="auto"))
    with Run(bus, model=nn.Linear(1, 1)) as run:
        for epoch in run.epochs(EPOCHS):
            for batch in run.batches(read(epoch)):
                if run.step == cut:
                    raise Cut
                orders.setdefault(epoch, []).append(batch.tolist())
                run.report(loss=1.0)
    return orders


def assert_goes_on(folder: Path, make: Callable[[], Read], cut: int, on: str) -> None:
    """Of an epoch that was cut the resumed run has the rest."""
    whole = train(None, make)
    with pytest.raises(Cut):
        train(folder / "run", make, cut, on)
    for epoch, order in train(folder / "run", make, on=on).items():
        assert order == whole[epoch][-len(order) :], epoch


def stages() -> Read:
    easy, hard = loader(1, 4), loader(2)
    return lambda epoch: easy if epoch <= 2 else hard


def stages_of_one_size() -> Read:
    easy, hard = loader(1), loader(2)
    return lambda epoch: easy if epoch <= 2 else hard


def stages_of_one_seed() -> Read:
    easy, hard = loader(1, 4), loader(1)
    return lambda epoch: easy if epoch <= 2 else hard


def in_turns() -> Read:
    both = loader(1), loader(2)
    return lambda epoch: both[epoch % 2]


def in_turns_of_one_seed() -> Read:
    both = loader(1, 4), loader(1)
    return lambda epoch: both[epoch % 2]


def in_turns_with_what_keeps_nothing() -> Read:
    plain: Any = DataLoader(range(SAMPLES), 4)  # type: ignore[arg-type]  # as above
    own = loader(1)
    return lambda epoch: (own, plain)[epoch % 2]


def made_anew_of_one_seed() -> Read:
    return lambda epoch: loader(1)


def made_anew_of_one_seed_and_held() -> Read:
    held: list[Iterable[Any]] = []

    def read(epoch: int) -> Iterable[Any]:
        held.append(loader(1))
        return held[-1]

    return read


def made_anew_of_two_seeds() -> Read:
    return lambda epoch: loader(epoch % 2)


def growing() -> Read:
    """As active learning has it: the data of the one loader becomes more."""
    pool = list(range(SAMPLES))
    first = torch.Generator().manual_seed(1)
    own: Iterable[Any] = DataLoader(pool, 4, shuffle=True, generator=first)  # type: ignore[arg-type]  # a list is a dataset

    def read(epoch: int) -> Iterable[Any]:
        pool[:] = range(SAMPLES // 2 * (1 + epoch))
        return own

    return read


def growing_now_and_then() -> Read:
    read = growing()
    return lambda epoch: read(epoch // 2)


def growing_in_loaders_of_one_generator() -> Read:
    own = torch.Generator().manual_seed(1)
    return lambda epoch: DataLoader(range(4 * epoch), 4, shuffle=True, generator=own)  # type: ignore[arg-type]  # as above


MAKERS = [
    growing,
    growing_now_and_then,
    growing_in_loaders_of_one_generator,
    stages,
    stages_of_one_size,
    stages_of_one_seed,
    in_turns,
    in_turns_of_one_seed,
    in_turns_with_what_keeps_nothing,
    made_anew_of_one_seed,
    made_anew_of_one_seed_and_held,
    made_anew_of_two_seeds,
]


# A loader that is read for the first time is taken for the one before, where that may have grown,
# or have a seed of its process; after one epoch one that is made anew with one seed looks so, too.
LOOK_ALIKE = [
    (made_anew_of_one_seed, 1),
    (made_anew_of_one_seed_and_held, 1),
    (in_turns_of_one_seed, 1),
    (stages_of_one_seed, 2),
    (stages_of_one_size, 2),
]
AFTER_AN_EPOCH = [
    (make, epochs) for make in MAKERS for epochs in (1, 2, 3, 4) if (make, epochs) not in LOOK_ALIKE
]


@pytest.mark.parametrize(("make", "epochs_done"), AFTER_AN_EPOCH)
def test_loaders_read_in_turns_have_their_orders_after_an_epoch(
    make: Callable[[], Read], epochs_done: int, tmp_path: Path
) -> None:
    whole = train(None, make)
    cut = sum(len(whole[epoch]) for epoch in range(1, epochs_done + 1)) + 1
    assert_goes_on(tmp_path, make, cut, "epoch_finished")


@pytest.mark.parametrize("make", MAKERS)
def test_loaders_read_in_turns_have_their_orders_within_an_epoch(
    make: Callable[[], Read], tmp_path: Path
) -> None:
    assert_goes_on(tmp_path, make, 6, "batch_finished")


def test_loaders_read_in_turns_have_their_orders_in_the_third_life(tmp_path: Path) -> None:
    whole = train(None, in_turns)
    for epochs_done in (2, 3, 4):
        with pytest.raises(Cut):
            train(tmp_path / "run", in_turns, 2 * epochs_done + 1)
    last = train(tmp_path / "run", in_turns)
    assert last == {epoch: whole[epoch] for epoch in (5, 6)}


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="eventbus.loops")
    return caplog


def test_loaders_read_in_turns_that_cannot_be_told_apart_are_told_of(
    tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    def make() -> Read:
        both = loader(1), loader(1)
        return lambda epoch: both[epoch % 2]

    with pytest.raises(Cut):
        train(tmp_path, make, 9)
    assert told.messages == []
    train(tmp_path, make)
    (message,) = told.messages
    assert message.startswith("2 loaders that are read in turns have generators of one seed")


@pytest.mark.parametrize(
    ("make", "cut", "words"),
    [
        (stages, 3, ""),
        (stages_of_one_size, 5, "began with seed 1 before the checkpoint and has seed 2 here"),
        (stages_of_one_seed, 3, "had 4 samples before the checkpoint and has 8 here"),
        (growing, 3, "had 8 samples before the checkpoint and has 12 here"),
        (growing, 6, ""),
        (growing_in_loaders_of_one_generator, 4, ""),
    ],
)
def test_a_loader_is_told_of_where_it_may_be_another_than_the_one_before(
    make: Callable[[], Read], cut: int, words: str, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Cut):
        train(tmp_path, make, cut)
    train(tmp_path, make)
    assert len(told.messages) == bool(words)
    assert words in told.text


@pytest.mark.parametrize("epochs_done", [2, 3])
def test_a_loader_whose_seed_is_another_in_each_process_goes_on(
    epochs_done: int, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    def of(seed: int) -> Callable[[], Read]:
        def make() -> Read:
            own = loader(seed)
            return lambda epoch: own

        return make

    whole = train(None, of(11))
    with pytest.raises(Cut):
        train(tmp_path, of(11), 2 * epochs_done + 1)
    resumed = train(tmp_path, of(22))
    assert resumed == {epoch: whole[epoch] for epoch in range(epochs_done + 1, EPOCHS + 1)}
    (message,) = told.messages
    assert "it goes on as it was left, which is exact unless" in message


def test_a_checkpoint_that_kept_one_loader_for_each_place_is_gone_on_from(tmp_path: Path) -> None:
    def make() -> Read:
        own = loader(1)
        return lambda epoch: own

    whole = train(None, make)
    with pytest.raises(Cut):
        train(tmp_path / "run", make, 7)
    saves = Folder(tmp_path / "run", Files())
    saved, state = load_newest(saves.path, saves.files)
    kept = state["loop"]["position"]["loaders"]["batches 0"]
    del kept["others"], kept["samples"]
    saves.commit(saved.manifest, state)
    assert train(tmp_path / "run", make) == {epoch: whole[epoch] for epoch in (4, 5, 6)}


def test_of_many_loaders_read_in_turns_the_last_ones_are_kept() -> None:
    def made() -> list[Any]:
        return [loader(seed) for seed in range(40)]

    def read(loaders: Loaders, of: list[Any]) -> None:
        for one in of:
            loaders.begin("batches 0", one)
            list(one)
            loaders.end("batches 0")

    was, now, loaders = made(), made(), Loaders()
    read(loaders, was[:30])
    for _ in range(2):
        kept = loaders.state()
        loaders = Loaders()
        loaders.restore(kept)
    read(loaders, was[30:])
    kept = loaders.state()
    assert len(kept["batches 0"]["others"]) == 31

    loaders.restore(kept)
    read(loaders, now)
    for seed, (before, resumed) in enumerate(zip(was, now, strict=True)):
        list(before)
        goes_on = torch.equal(before.generator.get_state(), resumed.generator.get_state())
        assert goes_on == (seed >= 8), seed


# -- samplers of one's own


class Own(Sampler[int]):
    """Draws from what it holds under a name of its own."""

    def __init__(self, rng: Any, draw: Callable[[Any], Sequence[int]]) -> None:
        self.rng, self.draw = rng, draw

    def __iter__(self) -> Iterator[int]:
        yield from self.draw(self.rng)

    def __len__(self) -> int:
        return SAMPLES


class Stateful(Own):
    """May be given to a Run as `state=`, too."""

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.setstate(state["rng"])


def torchs(rng: torch.Generator) -> list[int]:
    order: list[int] = torch.randperm(SAMPLES, generator=rng).tolist()
    return order


def numpys(rng: Any) -> list[int]:
    order: list[int] = rng.permutation(SAMPLES).tolist()
    return order


def pythons(rng: random.Random) -> list[int]:
    return rng.sample(range(SAMPLES), SAMPLES)


SAMPLERS: dict[str, Callable[[], Own]] = {
    "torch.Generator": lambda: Own(torch.Generator().manual_seed(1), torchs),
    "numpy.random.Generator": lambda: Own(np.random.default_rng(1), numpys),
    "numpy.random.Generator of MT19937": lambda: Own(
        np.random.Generator(np.random.MT19937(1)), numpys
    ),
    "numpy.random.RandomState": lambda: Own(np.random.RandomState(1), numpys),
    "random.Random": lambda: Own(random.Random(1), pythons),
}


def of_sampler(kind: str) -> Callable[[], Read]:
    def make() -> Read:
        own: Any = DataLoader(range(SAMPLES), 4, sampler=SAMPLERS[kind]())  # type: ignore[arg-type]  # as above
        return lambda epoch: own

    return make


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize(
    ("on", "cut"), [("epoch_finished", 3), ("epoch_finished", 9), ("batch_finished", 6)]
)
def test_a_sampler_goes_on_from_the_generator_that_it_holds(
    kind: str, on: str, cut: int, tmp_path: Path
) -> None:
    assert_goes_on(tmp_path, of_sampler(kind), cut, on)


def test_samplers_read_in_turns_are_told_apart_by_their_generators(tmp_path: Path) -> None:
    def make() -> Read:
        samplers = [Own(np.random.default_rng(seed), numpys) for seed in (1, 2)]
        both: list[Any] = [DataLoader(range(SAMPLES), 4, sampler=one) for one in samplers]  # type: ignore[arg-type]  # as above
        return lambda epoch: both[epoch % 2]

    for cut in (3, 5, 7):
        assert_goes_on(tmp_path / str(cut), make, cut, "epoch_finished")


def validated(kind: str, in_step: bool, folder: Path | None, cut: int | None = None) -> Orders:
    """Train and validate by one sampler; return the batches of each epoch."""
    torch.manual_seed(0)
    sampler, bus, seen = SAMPLERS[kind](), EventBus(), Orders()
    if folder is not None:
        bus.attach(Checkpoint(folder, best=None, resume="auto"))
    own, other = (DataLoader(range(SAMPLES), 4, sampler=sampler) for _ in range(2))  # type: ignore[arg-type,var-annotated]  # as above
    with Run(bus, model=nn.Linear(1, 1)) as run:

        def validate() -> None:
            for batch in run.validate(other):
                seen[run.epoch].append(batch.tolist())
                run.report(loss=1.0)

        for epoch in run.epochs(EPOCHS):
            for batch in run.batches(own):
                if run.step == cut:
                    raise Cut
                seen.setdefault(epoch, []).append(batch.tolist())
                if in_step and run.step % 2:
                    validate()
                run.report(loss=1.0)
            if not in_step:
                validate()
    return seen


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize("in_step", [False, True])
def test_a_generator_that_samplers_of_training_and_validation_hold_goes_on(
    kind: str, in_step: bool, tmp_path: Path
) -> None:
    whole = validated(kind, in_step, None)
    for epochs_done in (1, 3):
        with pytest.raises(Cut):
            validated(kind, in_step, tmp_path, 2 * epochs_done + 1)
    assert validated(kind, in_step, tmp_path) == {epoch: whole[epoch] for epoch in (4, 5, 6)}


def test_a_held_generator_that_each_epoch_seeds_anew_is_left_to_it(tmp_path: Path) -> None:
    def make() -> Read:
        own = Own(random.Random(), pythons)
        read: Iterable[Any] = DataLoader(range(SAMPLES), 4, sampler=own)  # type: ignore[arg-type]  # as above

        def seeded(epoch: int) -> Iterable[Any]:
            own.rng.seed(epoch)
            return read

        return seeded

    for cut in (3, 5, 7):
        assert_goes_on(tmp_path / str(cut), make, cut, "epoch_finished")


class Seeded(Own):
    """Draws from what it holds, seeded by the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.rng.seed(epoch)


def test_a_sampler_that_seeds_what_it_holds_by_the_epoch_is_not_told_of(
    tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    def make() -> Read:
        own: Any = DataLoader(range(SAMPLES), 4, sampler=Seeded(random.Random(0), pythons))  # type: ignore[arg-type]  # as above
        return lambda epoch: own

    for cut in (3, 5):
        assert_goes_on(tmp_path / str(cut), make, cut, "epoch_finished")
    assert told.messages == []


def test_a_sampler_that_state_has_given_back_is_as_it_was_left(
    tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    def live(folder: Path, cut: int | None = None) -> Orders:
        sampler = Stateful(random.Random(1), pythons)
        read: Any = DataLoader(range(SAMPLES), 4, sampler=sampler)  # type: ignore[arg-type]  # as above
        bus, orders = EventBus(), Orders()
        bus.attach(Checkpoint(folder, best=None, resume="auto"))
        with Run(bus, model=nn.Linear(1, 1), state={"sampler": sampler}) as run:
            for epoch in run.epochs(EPOCHS):
                for batch in run.batches(read):
                    if run.step == cut:
                        raise Cut
                    orders.setdefault(epoch, []).append(batch.tolist())
                    run.report(loss=1.0)
        return orders

    whole = live(tmp_path / "whole")
    with pytest.raises(Cut):
        live(tmp_path / "run", 7)
    assert live(tmp_path / "run") == {epoch: whole[epoch] for epoch in (4, 5, 6)}
    assert told.messages == []


@pytest.mark.parametrize("on", ["epoch_finished", "batch_finished"])
def test_a_loader_within_a_bar_of_tqdm_goes_on(on: str, tmp_path: Path) -> None:
    bar = pytest.importorskip("tqdm").tqdm

    def within_bar(own: Iterable[Any]) -> Read:
        wrap: Callable[..., Iterable[Any]] = bar
        return lambda epoch: wrap(own, disable=True)

    def sampled() -> Iterable[Any]:
        sampler = ResumableSampler(SAMPLES)
        own: Iterable[Any] = DataLoader(range(SAMPLES), 4, sampler=sampler)  # type: ignore[arg-type]  # as above
        return own

    assert_goes_on(tmp_path / "generator", lambda: within_bar(loader(1)), 6, on)
    assert_goes_on(tmp_path / "sampler", lambda: within_bar(sampled()), 6, on)


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_loader_within_a_bar_of_tqdm_draws_its_seed_before_the_place_that_is_gone_on_from(
    is_kept: bool, tmp_path: Path
) -> None:
    bar: Callable[..., Any] = pytest.importorskip("tqdm").tqdm

    def live(folder: Path | None, cut: int | None = None) -> dict[int, float]:
        torch.manual_seed(0)
        bus, drawn = EventBus(), dict[int, float]()
        if folder is not None:
            bus.attach(Checkpoint(folder, on="batch_finished", best=None, resume="auto"))
        own: Any = DataLoader(range(SAMPLES), 4, sampler=ResumableSampler(SAMPLES))  # type: ignore[arg-type]  # as above
        kept = bar(bar(own, disable=True), disable=True)
        with Run(bus, model=nn.Linear(1, 1)) as run:
            for _ in run.epochs(3):
                for _ in run.batches(kept if is_kept else bar(own, disable=True)):
                    if run.step == cut:
                        raise Cut
                    drawn[run.step] = torch.rand(()).item()  # as dropout does
                    run.report(loss=1.0)
        assert len(kept) == 2
        return drawn

    whole = live(None)
    with pytest.raises(Cut):
        live(tmp_path, 4)
    assert live(tmp_path) == {step: whole[step] for step in (4, 5, 6)}


class Unseen(Sampler[int]):
    """Goes on from pass to pass by what no Run can know."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        yield from range(SAMPLES)

    def __len__(self) -> int:
        return SAMPLES


class Unreadable(random.Random):
    """Has no state for anybody."""

    def getstate(self) -> tuple[Any, ...]:
        raise NotImplementedError


@pytest.mark.parametrize("kind", [random.SystemRandom, Unreadable])
def test_a_generator_without_a_state_is_told_of_as_what_cannot_be_seen(
    kind: type[random.Random], tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    def make() -> Read:
        own: Any = DataLoader(range(SAMPLES), 4, sampler=Own(kind(), pythons))  # type: ignore[arg-type]  # as above
        return lambda epoch: own

    with pytest.raises(Cut):
        train(tmp_path, make, 5)
    assert told.messages == []
    assert list(train(tmp_path, make)) == [3, 4, 5, 6]
    (message,) = told.messages
    assert "the order of Own is exact only where it is drawn from the global" in message
    assert "or is the same in each pass" in message


def of_unseen() -> Read:
    own: Any = DataLoader(range(SAMPLES), 4, sampler=Unseen())  # type: ignore[arg-type]  # as above
    return lambda epoch: own


def zipped() -> Read:
    own = loader(1)
    return lambda epoch: map(torch.clone, own)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (of_unseen, "the order of Unseen is exact only where it is drawn from the global"),
        (zipped, "the samplers and generators within the map cannot be seen"),
    ],
)
@pytest.mark.parametrize("on", ["epoch_finished", "batch_finished"])
def test_an_order_that_comes_from_what_cannot_be_seen_is_told_of_once(
    make: Callable[[], Read], words: str, on: str, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Cut):
        train(tmp_path, make, 6, on)
    assert told.messages == []
    train(tmp_path, make, on=on)
    (message,) = told.messages
    assert words in message
    assert ("read again and dropped" in message) == (on == "batch_finished")
