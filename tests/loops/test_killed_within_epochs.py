"""A process that a signal ends within epochs, again and again, ends as one never cut (T20)."""

from __future__ import annotations

import functools
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus.handlers._checkpoint_files import Folder, load_newest
from eventbus.handlers._files import Files

from .killed_training import EPOCHS, STEPS, Nursery, Plan, nursery

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
]

LOADERS = ["sampler", "sampler 2", "stateful", "shuffled"]
"""By how they are resumed, and how many workers read them."""

LINES = {STEPS - 1: 300, STEPS: 1300}
"""Of the loop and of its body, from the end of a step to that of the next; between them an epoch
ends and another begins."""

LOGS = ("epochs.csv", "steps.csv")
TIMES = re.compile(rb'"(duration_s|data_wait_s)": [^,}]+')


@pytest.fixture(scope="module")
def lives() -> Iterator[Nursery]:
    with nursery() as one:
        yield one


@pytest.fixture(scope="module")
def whole_of(lives: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return what lives a training to the end, whole, once for each kind of it."""

    @functools.cache
    def lived(loader: str, probes: bool = True) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        assert lives.live(Plan(str(folder), loader, probes=probes)) == (0, EPOCHS * STEPS)
        return folder

    return lived


def results(folder: Path) -> dict[str, Any]:
    """What a training left: its state to the bit, and its metric files to the byte."""
    found: dict[str, Any] = torch.load(folder / "results.pt", weights_only=True)
    found.update({name: (folder / name).read_bytes() for name in LOGS})
    found["log.jsonl"] = TIMES.sub(b'"":0', (folder / "log.jsonl").read_bytes())
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_equal(killed: Path, whole: Path) -> None:
    found, expected = results(killed), results(whole)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not same(found[name], expected[name])] == []


def killed(lives: Nursery, folder: Path, kills: list[int], **plan: Any) -> list[int]:
    """Be killed after so many steps of each life, then live to the end; return where it was cut."""
    folder.mkdir()
    cuts: list[int] = []
    for kill_after in kills:
        code, step = lives.live(Plan(str(folder), kill_after=kill_after, **plan))
        if code == 0:
            return cuts
        assert code == -9
        cuts.append(step)
    assert lives.live(Plan(str(folder), **plan))[0] == 0
    return cuts


@pytest.mark.parametrize("loader", LOADERS)
def test_a_training_killed_within_epochs_ends_as_if_it_never_was(
    loader: str, lives: Nursery, whole_of: Callable[..., Path], tmp_path: Path
) -> None:
    whole = whole_of(loader)
    draw = random.Random(loader)
    for every in (1, 3):
        kills = [draw.randint(every, STEPS + 1) for _ in range(6)]
        killed(lives, tmp_path / f"every {every}", kills, loader=loader, every=every)
        assert_equal(tmp_path / f"every {every}", whole)


def test_a_training_killed_twice_in_one_epoch_ends_as_if_it_never_was(
    lives: Nursery, whole_of: Callable[..., Path], tmp_path: Path
) -> None:
    whole = whole_of("sampler")
    cuts = killed(lives, tmp_path / "killed", [STEPS + 1, 1, 1, 1], loader="sampler")
    epochs = [(step - 1) // STEPS for step in cuts]
    assert max(map(epochs.count, epochs)) >= 2
    assert_equal(tmp_path / "killed", whole)


def test_a_training_killed_before_its_first_save_and_at_the_ends_of_epochs_is_none_the_worse(
    lives: Nursery, whole_of: Callable[..., Path], tmp_path: Path
) -> None:
    whole = whole_of("sampler")
    kills = [1, 2, STEPS, STEPS, STEPS]  # nothing is saved by the first two
    cuts = killed(lives, tmp_path / "killed", kills, loader="sampler", every=3)
    assert cuts[:3] == [1, 2, STEPS]
    assert_equal(tmp_path / "killed", whole)


@pytest.mark.parametrize("loader", ["sampler", "stateful"])
def test_a_training_that_saves_beside_its_loop_survives_kills_within_epochs(
    loader: str, lives: Nursery, whole_of: Callable[..., Path], tmp_path: Path
) -> None:
    whole = whole_of(loader)
    kills = [5, 6, 5, 7, 6]
    killed(lives, tmp_path / "killed", kills, loader=loader, asynchronous=True)
    assert_equal(tmp_path / "killed", whole)


@pytest.mark.parametrize("loader", ["sampler", "stateful"])
def test_a_training_that_is_asked_to_end_saves_its_last_step_and_ends_as_if_it_never_was(
    loader: str, lives: Nursery, whole_of: Callable[..., Path], tmp_path: Path
) -> None:
    """SIGTERM at random times (T10)."""
    whole = whole_of(loader, probes=False)
    draw = random.Random(loader)
    exits: list[int] = []
    for turn in range(5):
        folder = tmp_path / str(turn)
        folder.mkdir()
        while not (folder / "results.pt").exists():
            exits.append(asked_to_end(lives, folder, loader, draw))
        assert_equal(folder, whole)
    assert exits.count(143) >= 10


def asked_to_end(lives: Nursery, folder: Path, loader: str, draw: random.Random) -> int:
    """Ask a life to end at a random time; a signal that comes after its run ends it at once."""
    after, later_s = draw.randint(1, 8), draw.uniform(0.0, 0.02)
    asked: dict[str, Any] = {"kill_after": after, "asked": later_s}
    plan = Plan(str(folder), loader, every=3, probes=False, **asked)
    code, step = lives.live(plan)
    if code == 143:
        saved, _ = load_newest(folder / "saved", Files())
        assert saved.manifest.step == step
    else:
        assert step in (EPOCHS * STEPS, 0)  # 0: all was done before
        assert code in (0, -15)
    return code


@pytest.mark.parametrize("loader", ["sampler", "stateful"])
def test_a_training_that_is_asked_to_end_at_any_line_ends_as_if_it_never_was(
    loader: str, lives: Nursery, whole_of: Callable[..., Path], tmp_path: Path
) -> None:
    """SIGTERM between any two lines of the loop (T10): loading, giving, finishing, validating."""
    whole = whole_of(loader, probes=False)
    draw = random.Random(loader)
    for turn in range(24):
        folder = tmp_path / str(turn)
        folder.mkdir()
        step = draw.choice(list(LINES))
        asked_at = (step, draw.randint(1, LINES[step]))
        plan = Plan(str(folder), loader, every=3, probes=False, asked_at=asked_at)
        assert lives.live(plan)[0] == 143
        assert lives.live(replace(plan, asked_at=None))[0] == 0
        assert_equal(folder, whole)


def killed_and_resumed_without(part: str, lives: Nursery, folder: Path) -> int:
    """Kill a training, take a part out of its checkpoint, and go on; return how that ended."""
    folder.mkdir()
    assert lives.live(Plan(str(folder), "sampler", kill_after=4))[0] == -9
    saves = Folder(folder / "saved", Files())
    saved, state = load_newest(saves.path, saves.files)
    del state[part]
    saves.commit(saved.manifest, state)
    return lives.live(Plan(str(folder), "sampler"))[0]


@pytest.mark.parametrize("part", ["scheduler", "scaler", "EMA", "random", "steps"])
def test_a_training_that_is_resumed_without_a_part_is_another(
    part: str, lives: Nursery, whole_of: Callable[..., Path], tmp_path: Path
) -> None:
    whole = whole_of("sampler")
    assert killed_and_resumed_without(part, lives, tmp_path / "killed") == 0
    with pytest.raises(AssertionError):
        assert_equal(tmp_path / "killed", whole)


@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_a_training_is_not_resumed_without_its_model_or_optimizer(
    part: str, lives: Nursery, tmp_path: Path
) -> None:
    assert killed_and_resumed_without(part, lives, tmp_path / "killed") == 1
