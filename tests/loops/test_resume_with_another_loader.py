"""A run resumed with more workers, fewer, or none: it goes on in its order, or says no (T21)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, get_worker_info

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.loops import ResumableSampler, Run

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

SAMPLES, STEPS = 10, 4  # STEPS: per epoch, in batches of 3

Batches = list[list[int]]
Loader = Iterable[Any]


class Killed(BaseException):
    """The process is gone: nothing after it is written."""


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> int:
        return index


class Shards(IterableDataset[int]):
    """Numbers, of which each worker reads its own part."""

    def __iter__(self) -> Iterator[int]:
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return iter(range(start, SAMPLES, step))


def sampled(workers: int, batch_size: int = 3) -> Loader:
    sampler = ResumableSampler(SAMPLES, seed=5)
    return DataLoader(Numbers(), batch_size, sampler=sampler, num_workers=workers)


def shuffled(workers: int, batch_size: int = 3) -> Loader:
    return DataLoader(Numbers(), batch_size, shuffle=True, num_workers=workers)


def sharded(workers: int, batch_size: int = 3) -> Loader:
    return DataLoader(Shards(), batch_size, num_workers=workers)


def stateful(workers: int, batch_size: int = 3) -> Loader:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    options = {"shuffle": True, "num_workers": workers}
    loader: Loader = torchdata.StatefulDataLoader(Numbers(), batch_size, **options)
    return loader


def train(folder: Path, loader: Loader, kill_at: int | None = None) -> Batches:
    """Train two epochs, unless killed after a step; return the batches that were trained on."""
    bus, seen = EventBus(), list[list[int]]()
    bus.attach(Checkpoint(folder, on="batch_finished", resume="auto", best=None))

    @bus.on("batch_finished", priority=-10_000)
    def kill(step: int) -> None:
        if step == kill_at:
            raise Killed

    model = nn.Linear(1, 1)
    torch.manual_seed(1)
    with Run(bus, model=model) as run:
        for _ in run.epochs(2):
            for batch in run.batches(loader):
                seen.append(batch.tolist())
                run.report(loss=1.0)
    return seen


def cut(folder: Path, loader: Loader, kill_at: int) -> None:
    with pytest.raises(Killed):
        train(folder, loader, kill_at)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


CHANGES = [(0, 1), (2, 0), (1, 2)]


@pytest.mark.parametrize(("before", "after"), CHANGES)
@pytest.mark.parametrize("make", [sampled, shuffled])
def test_samples_go_on_in_their_order_with_any_number_of_workers(
    make: Callable[[int], Loader],
    before: int,
    after: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = train(tmp_path / "whole", make(before))
    cut(tmp_path / "run", make(before), STEPS + 2)
    caplog.clear()
    assert train(tmp_path / "run", make(after)) == whole[STEPS + 2 :]
    reads_again = [text for text in told(caplog) if "read again and dropped" in text]
    assert told(caplog) == reads_again
    assert len(reads_again) == (make is shuffled)


@pytest.mark.parametrize(("before", "after"), CHANGES)
@pytest.mark.parametrize("kill_at", [2, STEPS])
def test_loader_with_a_state_refuses_another_number_of_workers(
    before: int, after: int, kill_at: int, tmp_path: Path
) -> None:
    # torchdata's own error says "State doesn't contain key '_snapshot'", or nothing at all
    cut(tmp_path, stateful(before), kill_at)
    with pytest.raises(ValueError, match=f"num_workers={before}, and this one has {after}: give"):
        train(tmp_path, stateful(after))


def test_refused_run_may_still_go_on_with_the_workers_that_it_had(tmp_path: Path) -> None:
    torch.manual_seed(2)  # the sampler draws a seed when it is made
    whole = train(tmp_path / "whole", stateful(0))
    torch.manual_seed(2)
    cut(tmp_path / "run", stateful(0), 2)
    with pytest.raises(ValueError, match="give it num_workers=0"):
        train(tmp_path / "run", stateful(1))
    assert train(tmp_path / "run", stateful(0)) == whole[2:]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_iterable_dataset_read_by_other_workers_is_warned_of(
    before: int, after: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut(tmp_path, sharded(before), 2)
    caplog.clear()
    train(tmp_path, sharded(after))
    assert told(caplog)[0].startswith(f"the loader had num_workers={before} when the checkpoint")
    assert f"has {after} now" in told(caplog)[0]
    assert len(told(caplog)) == 2  # and that it reads again


@pytest.mark.parametrize("make", [sampled, shuffled, sharded])
def test_another_batch_size_within_an_epoch_is_warned_of(
    make: Callable[..., Loader], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut(tmp_path, make(0, batch_size=3), 2)
    caplog.clear()
    train(tmp_path, make(0, batch_size=2))
    assert told(caplog)[0].startswith("the loader had batch_size=3 when the checkpoint")


def ordered(**changes: Any) -> Loader:
    options: dict[str, Any] = {"data": SAMPLES, "seed": 5, **changes}
    return DataLoader(Numbers(), 3, sampler=ResumableSampler(**options))


def batched(batch_size: int) -> Loader:
    return DataLoader(Numbers(), batch_sampler=BatchSampler(range(SAMPLES), batch_size, False))


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (ordered(), ordered(seed=6), "sampler.seed=5 when the checkpoint was saved and has 6"),
        (ordered(), ordered(shuffle=False), "sampler.shuffle=True when"),
        (ordered(), ordered(data=9), "len(sampler)=10 when the checkpoint was saved and has 9"),
        (ordered(), shuffled(0), "sampler=ResumableSampler when"),
        (batched(3), batched(2), "batch_size=3 when the checkpoint was saved and has 2"),
    ],
)
def test_another_order_within_an_epoch_is_warned_of_once(
    before: Loader, after: Loader, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut(tmp_path, before, 2)
    caplog.clear()
    train(tmp_path, after)
    assert [one for one in told(caplog) if "read again" not in one] == [told(caplog)[0]]
    assert told(caplog)[0].startswith(f"the loader had {text}")


@pytest.mark.parametrize("make", [sampled, shuffled])
def test_nothing_is_said_of_a_change_between_epochs(
    make: Callable[..., Loader], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut(tmp_path, make(0, batch_size=3), len(train(tmp_path / "whole", make(0))) // 2)
    caplog.clear()
    train(tmp_path, make(1, batch_size=2))
    assert told(caplog) == []


def test_checkpoint_of_an_earlier_version_tells_no_manner_and_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("eventbus.loops._place.manner_of", lambda loader: {})
        cut(tmp_path, sampled(0), 2)
    caplog.clear()
    assert len(train(tmp_path, sampled(1))) == 2 * STEPS - 2
    assert told(caplog) == []
