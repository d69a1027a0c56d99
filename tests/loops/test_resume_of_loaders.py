"""What a loader keeps from pass to pass is there in a resumed run: its generators, its workers."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, WeightedRandomSampler

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.handlers._checkpoint_files import Folder, load_newest
from eventbus.handlers._files import Files
from eventbus.loops import ResumableSampler, Run

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

EPOCHS, STEPS = 4, 4  # STEPS: per epoch and pass
DATA: Any = torch.arange(8.0).unsqueeze(1)
LIVING: dict[str, Any] = {"num_workers": 1, "persistent_workers": True}

Seen = list[tuple[int | str, list[float]]]


class Killed(BaseException):
    """The process is gone: nothing after it is written."""


class Loaders(NamedTuple):
    """What an epoch reads: `train`, pass after pass, and then `val`."""

    train: list[Iterable[Any]]
    val: Iterable[Any]
    leaves_at: int = STEPS  # batches of a pass before `break`


class Lived(NamedTuple):
    """What came of a life: what it read, with the step, and with which weights it ended."""

    seen: Seen
    weights: list[float]
    random: list[int]


def seeded(seed: int = 42) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(**options: Any) -> Iterable[Any]:
    return DataLoader(DATA, **{"batch_size": 2, "shuffle": "sampler" not in options, **options})


def stateful(size: int = 2, **options: Any) -> Iterable[Any]:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    loader: Iterable[Any] = torchdata.StatefulDataLoader(DATA, size, shuffle=True, **options)
    return loader


def validated(**options: Any) -> Iterable[Any]:
    return DataLoader(DATA, batch_size=4, **options)


def of_one_generator() -> Loaders:
    """As torch's notes on reproducibility have it."""
    own = seeded()
    return Loaders([plain(generator=own)], validated(generator=own, shuffle=True))


def in_turns() -> Loaders:
    return Loaders([plain(generator=seeded()), plain(generator=seeded(7))], validated())


def of_samplers(make: Callable[..., Any]) -> Loaders:
    return Loaders([plain(sampler=make(generator=seeded()))], validated())


MAKERS: dict[str, Callable[[], Loaders]] = {
    "workers live on": lambda: Loaders([plain(**LIVING)], validated()),
    "workers live on, our sampler": lambda: Loaders(
        [plain(sampler=ResumableSampler(8), **LIVING)], validated()
    ),
    "workers of a validation live on": lambda: Loaders([plain()], validated(**LIVING)),
    "generator": lambda: Loaders([plain(generator=seeded())], validated()),
    "generator and workers that live on": lambda: Loaders(
        [plain(generator=seeded(), **LIVING)], validated()
    ),
    "sampler's generator": lambda: of_samplers(functools.partial(RandomSampler, DATA)),
    "weighted sampler's generator": lambda: of_samplers(
        functools.partial(WeightedRandomSampler, [1.0] * 8, 8)
    ),
    "one generator for all": of_one_generator,
    "validation's generator": lambda: Loaders(
        [plain()], validated(generator=seeded(), shuffle=True)
    ),
    "loaders in turns": in_turns,
    "left early": lambda: Loaders([plain(generator=seeded())], validated(), leaves_at=2),
    "stateful, generator": lambda: Loaders([stateful(generator=seeded())], validated()),
    "stateful, left early": lambda: Loaders([stateful()], validated(), leaves_at=2),
    "stateful, in turns": lambda: Loaders([stateful(), stateful()], validated()),
    "stateful, in turns, of two sizes": lambda: Loaders([stateful(), stateful(4)], validated()),
    "stateful, workers live on": lambda: Loaders([stateful(**LIVING)], validated()),
    "stateful, workers live on and left early": lambda: Loaders(
        [stateful(**LIVING)], validated(), leaves_at=2
    ),
}


def live(
    folder: Path,
    make: Callable[[], Loaders],
    on: str = "epoch_finished",
    kill_at: int | None = None,
    *,
    begin_epoch: Callable[[Loaders, int], object] = lambda loaders, epoch: None,
    validates: Callable[[int], str] = lambda epoch: "after",
) -> Lived:
    """Train with a dropout, which draws from the generators that a loader may draw from, too."""
    torch.manual_seed(1)
    seen, bus, loaders = Seen(), EventBus(strict=True), make()
    bus.attach(Checkpoint(folder, on=on, best=None, resume="auto"))
    model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    @bus.on("batch_finished", priority=-10_000)
    def kill(step: int) -> None:
        if step == kill_at:
            raise Killed

    with Run(bus, model=model, optimizer=optimizer) as run:
        for epoch in run.epochs(EPOCHS):
            begin_epoch(loaders, epoch)
            if validates(epoch) == "before":
                validate(run, loaders, seen)
            for loader in loaders.train:
                for batch in run.batches(loader):
                    seen.append((run.step, batch.flatten().tolist()))
                    loss = model(batch).square().mean()
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    run.report(loss=loss)
                    if loaders.leaves_at < STEPS and run.step % loaders.leaves_at == 0:
                        break
            if validates(epoch) == "after":
                validate(run, loaders, seen)
    weights = torch.cat([one.flatten() for one in model.parameters()])
    return Lived(seen, weights.tolist(), torch.get_rng_state().tolist())


def validate(run: Run, loaders: Loaders, seen: Seen) -> None:
    for batch in run.validate(loaders.val):
        seen.append(("val", batch.flatten().tolist()))
        run.report(loss=1.0)


def assert_goes_on(folder: Path, make: Callable[[], Loaders], on: str, kill_at: int) -> None:
    """Kill a life after a step; the next one reads, draws and learns what one in one go does."""
    whole = live(folder / "whole", make, on)
    with pytest.raises(Killed):
        live(folder / "run", make, on, kill_at)
    resumed = live(folder / "run", make, on)
    assert resumed.seen == whole.seen[-len(resumed.seen) :]
    assert len(resumed.seen) < len(whole.seen)
    assert resumed.weights == whole.weights
    assert resumed.random == whole.random


def steps_of_an_epoch(make: Callable[[], Loaders]) -> int:
    loaders = make()
    return len(loaders.train) * loaders.leaves_at


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("epochs_done", [1, 2])
def test_a_run_goes_on_from_the_end_of_an_epoch(
    kind: str, epochs_done: int, tmp_path: Path
) -> None:
    make = MAKERS[kind]
    kill_at = epochs_done * steps_of_an_epoch(make) + 1
    assert_goes_on(tmp_path, make, "epoch_finished", kill_at)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_run_goes_on_within_an_epoch(kind: str, tmp_path: Path) -> None:
    make = MAKERS[kind]
    steps = steps_of_an_epoch(make)
    assert_goes_on(tmp_path, make, "batch_finished", steps + steps // 2)


@pytest.mark.parametrize(
    "kind", ["generator", "stateful, generator", "stateful, in turns, of two sizes"]
)
def test_a_run_goes_on_from_a_validation(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make = MAKERS[kind]
    assert_goes_on(tmp_path, make, "validation_done", steps_of_an_epoch(make) + 1)
    assert "own generator" not in caplog.text


def test_a_checkpoint_that_kept_generators_with_the_opening_is_gone_on_from(tmp_path: Path) -> None:
    make, on = MAKERS["generator"], "batch_finished"
    whole = live(tmp_path / "whole", make, on)
    with pytest.raises(Killed):
        live(tmp_path / "run", make, on, STEPS + 2)
    saves = Folder(tmp_path / "run", Files())
    saved, state = load_newest(saves.path, saves.files)
    position = state["loop"]["position"]
    kept = position.pop("loaders")["batches 0"]["own"]
    position.pop("own", None)
    position["opening"]["own"] = kept
    saves.commit(saved.manifest, state)
    resumed = live(tmp_path / "run", make, on)
    within = [batch for step, batch in resumed.seen if step != "val"][: STEPS - 2]
    assert within == [batch for step, batch in whole.seen if step != "val"][STEPS + 2 : 2 * STEPS]


@pytest.mark.parametrize("kind", ["one generator for all", "loaders in turns"])
@pytest.mark.parametrize("on", ["epoch_finished", "batch_finished"])
def test_a_run_goes_on_from_a_run_that_went_on(kind: str, on: str, tmp_path: Path) -> None:
    make = MAKERS[kind]
    steps = steps_of_an_epoch(make)
    whole = live(tmp_path / "whole", make, on)
    for kill_at in (steps + 1, steps + 2, 2 * steps, 3 * steps + 1):
        with pytest.raises(Killed):
            live(tmp_path / "run", make, on, kill_at)
    assert live(tmp_path / "run", make, on)[1:] == whole[1:]


def test_a_generator_is_as_the_loaders_have_left_it_that_share_it(tmp_path: Path) -> None:
    make = MAKERS["one generator for all"]
    whole = live(tmp_path / "whole", make, "validation_started")
    for kill_at in (STEPS + 1, 2 * STEPS + 1):  # each life begins with the validation
        with pytest.raises(Killed):
            live(tmp_path / "run", make, "validation_started", kill_at)
    assert live(tmp_path / "run", make, "validation_started")[1:] == whole[1:]


def test_a_generator_has_what_was_drawn_while_a_loader_that_shares_it_was_not_read(
    tmp_path: Path,
) -> None:
    def validates(epoch: int) -> str:
        return "never" if epoch % 2 else "before"

    make = MAKERS["one generator for all"]
    whole = live(tmp_path / "whole", make, validates=validates)
    for epochs_done in (2, 3):
        with pytest.raises(Killed):
            live(tmp_path / "run", make, kill_at=epochs_done * STEPS + 1, validates=validates)
    assert live(tmp_path / "run", make, validates=validates)[1:] == whole[1:]


@pytest.mark.parametrize("epochs_done", [1, 2])
def test_a_generator_that_each_epoch_seeds_anew_is_left_to_it(
    epochs_done: int, tmp_path: Path
) -> None:
    def seed(loaders: Loaders, epoch: int) -> None:
        loader: Any = loaders.train[0]
        loader.generator.manual_seed(epoch)

    make = MAKERS["generator"]
    whole = live(tmp_path / "whole", make, begin_epoch=seed)
    with pytest.raises(Killed):
        live(tmp_path / "run", make, kill_at=epochs_done * STEPS + 1, begin_epoch=seed)
    assert live(tmp_path / "run", make, begin_epoch=seed).weights == whole.weights


def test_a_loader_that_each_epoch_makes_anew_has_workers_of_its_own(tmp_path: Path) -> None:
    def remake(loaders: Loaders, epoch: int) -> None:
        loaders.train[0] = plain(**LIVING)

    make = MAKERS["workers live on"]
    whole = live(tmp_path / "whole", make, begin_epoch=remake)
    with pytest.raises(Killed):
        live(tmp_path / "run", make, kill_at=2 * STEPS + 1, begin_epoch=remake)
    assert live(tmp_path / "run", make, begin_epoch=remake).weights == whole.weights


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that gives the warnings, but for what is read again."""
    caplog.set_level(logging.WARNING, logger="eventbus.loops")
    return lambda: [text for text in caplog.messages if "read again and dropped" not in text]


def test_a_generator_of_another_seed_is_told_of_once(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    with pytest.raises(Killed):
        live(tmp_path, MAKERS["generator"], kill_at=STEPS + 1)
    live(tmp_path, lambda: Loaders([plain(generator=seeded(43))], validated()))
    (text,) = told()
    assert "began with seed 42 before the checkpoint and has seed 43 here" in text


def test_workers_that_live_on_no_more_are_told_of_within_an_epoch(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    with pytest.raises(Killed):
        live(tmp_path, MAKERS["workers live on"], "batch_finished", STEPS + 2)
    live(tmp_path, lambda: Loaders([plain(num_workers=1)], validated()), "batch_finished")
    (text,) = told()
    assert "give it persistent_workers=True again" in text
