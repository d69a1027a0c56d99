"""A run that is killed within an epoch and resumed there is the run that was never killed (T20)."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from eventbus import EventBus, Stop, every
from eventbus.handlers import EMA, Checkpoint, CSVLog, EarlyStopping
from eventbus.loops import ResumableSampler, Run

from .transcripts import Transcript, answer_on

pytestmark = [
    # torch counts the optimizer's steps of this process: a life may begin at the scheduler's
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata's call
]

EPOCHS = 3
STEPS = 5  # per epoch


class Killed(BaseException):
    """The process is gone: nothing after it is written."""


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(14, 4, generator=generator), torch.arange(14.0) / 14)


def sampled() -> Iterable[Any]:
    data = dataset()
    return DataLoader(data, batch_size=3, sampler=ResumableSampler(data, seed=5))


def stateful(**options: Any) -> Callable[[], Iterable[Any]]:
    def make() -> Iterable[Any]:
        torchdata = pytest.importorskip("torchdata.stateful_dataloader")
        data = dataset()
        torch.manual_seed(2)  # its sampler draws a seed when it is made
        loader: Iterable[Any] = torchdata.StatefulDataLoader(
            data,
            batch_size=3,
            **(options or {"sampler": ResumableSampler(data, seed=5)}),
        )
        return loader

    return make


def plain(**options: Any) -> Callable[[], Iterable[Any]]:
    return lambda: DataLoader(dataset(), batch_size=3, **options)


# Loaders with workers, killed by signals: test_killed_within_epochs.py
LOADERS: dict[str, Callable[[], Iterable[Any]]] = {
    "sampler": sampled,
    "stateful": stateful(shuffle=True),
    "stateful, our sampler": stateful(),
    "sequential": plain(),
    "shuffled": plain(shuffle=True),
    "a list": lambda: list(plain()()),
}


class Life:
    """One process: its model, its handlers, and what came of them."""

    def __init__(
        self,
        folder: Path,
        loader: Iterable[Any],
        kill_at: int | None = None,
        when: int = 1,
        on: str = "batch_finished",
    ) -> None:
        random.seed(1)
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.3), nn.Linear(6, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, gamma=0.7)
        self.ema = EMA(0.9)
        self.folder, self.loader = folder, loader
        self.bus = EventBus(strict=True)
        self.transcript = Transcript(self.bus)
        self.bus.attach(self.ema)
        self.bus.attach(EarlyStopping("val_loss", patience=1, min_delta=10.0))
        self.bus.attach(CSVLog(folder / "epochs.csv"))
        self.bus.attach(CSVLog(folder / "steps.csv", on=["batch_finished"]), name="steps")
        saver = Checkpoint(folder / "saved", on=on, when=every(when), resume="auto", keep=2)
        self.bus.attach(saver)
        if kill_at is not None:
            self.bus.on("batch_finished", priority=-10_000)(self._killer(kill_at))

    @staticmethod
    def _killer(kill_at: int) -> Callable[..., None]:
        def kill(step: int) -> None:
            if step == kill_at:
                raise Killed

        return kill

    def train(self) -> Life:
        scheduled: dict[str, Any] = {"optimizer": self.optimizer, "scheduler": self.scheduler}
        with Run(self.bus, model=self.model, **scheduled) as run:
            for _ in run.epochs(EPOCHS):
                self.model.train()
                for inputs, targets in run.batches(self.loader):
                    loss = functional.mse_loss(self.model(inputs).squeeze(1), targets)
                    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                    run.report(loss=loss, draw=random.random())
                self.model.eval()
                for number in run.validate([1.0, 2.0]):
                    weight: Any = self.model[0].weight
                    run.report(loss=weight.detach().square().mean() * number)
                if not run.interrupted:
                    self.scheduler.step()
        return self

    def results(self) -> dict[str, Any]:
        files = {name: (self.folder / name).read_bytes() for name in ("epochs.csv", "steps.csv")}
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "ema": self.ema.state_dict(),
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            **files,
        }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def lives(
    folder: Path, make: Callable[[], Iterable[Any]], kills: Iterable[int], when: int = 1
) -> Life:
    """Train, be killed at each of `kills` in turn, go on, and come to the end."""
    folder.mkdir()
    for kill_at in kills:
        with pytest.raises(Killed):
            Life(folder, make(), kill_at, when).train()
    return Life(folder, make(), None, when).train()


def assert_equal(whole: dict[str, Any], resumed: dict[str, Any]) -> None:
    for name, part in whole.items():
        assert same(part, resumed[name]), name


@pytest.mark.parametrize("kind", LOADERS)
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    make = LOADERS[kind]
    whole = lives(tmp_path / "whole", make, []).results()
    resumed = lives(tmp_path / "killed", make, [2, 4, 5, 8])
    assert_equal(whole, resumed.results())


@pytest.mark.parametrize("kind", ["sampler", "stateful", "shuffled"])
def test_a_run_resumes_at_every_step(kind: str, tmp_path: Path) -> None:
    make = LOADERS[kind]
    whole = lives(tmp_path / "whole", make, []).results()
    last = whole["epochs.csv"].count(b"\n") - 1
    for step in range(1, last * STEPS + 1):
        assert_equal(whole, lives(tmp_path / str(step), make, [step]).results())


@pytest.mark.slow
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kills=st.lists(st.integers(1, 2 * STEPS), max_size=3, unique=True).map(sorted),
    when=st.integers(1, 4),
    kind=st.sampled_from(["sampler", "sequential", "a list", "shuffled"]),
)
def test_a_run_survives_any_kills(
    kills: list[int], when: int, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    make, folder = LOADERS[kind], tmp_path_factory.mktemp("lives")
    whole = lives(folder / "whole", make, [], when).results()
    assert_equal(whole, lives(folder / "killed", make, kills, when).results())


def test_the_epoch_goes_on_and_does_not_begin_again(tmp_path: Path) -> None:
    resumed = lives(tmp_path / "run", sampled, [7]).transcript
    assert [fields["epoch"] for fields in resumed.of("epoch_started")] == []
    assert [fields["epoch"] for fields in resumed.of("loader_opened")] == [2]
    assert [fields["batch_index"] for fields in resumed.of("batch_loaded")] == [3, 4, 5]
    assert [fields["round"] for fields in resumed.of("validation_done")] == [2]
    assert [fields["complete"] for fields in resumed.of("epoch_finished")] == [True]


@pytest.mark.parametrize(("kind", "told"), [("sampler", 0), ("stateful", 0), ("sequential", 1)])
def test_a_loader_that_cannot_start_in_the_middle_is_told_once(
    kind: str, told: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="eventbus.loops"):
        lives(tmp_path / "run", LOADERS[kind], [7])
    texts = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert len(texts) == told
    assert all("ResumableSampler" in text for text in texts)


def test_a_resumable_sampler_is_not_asked_for_what_was_trained_on(tmp_path: Path) -> None:
    class Recording(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            asked.append(index)
            return tuple(tensor[index] for tensor in self.tensors)

    def make() -> Iterable[Any]:
        data = Recording(*dataset().tensors)
        return DataLoader(data, batch_size=3, sampler=ResumableSampler(data))

    asked: list[int] = []
    lives(tmp_path / "run", make, [2])
    order = list(ResumableSampler(14))
    assert asked[: 6 + 8] == order  # the first life, then the second from its place on


@pytest.mark.parametrize("signal", ["batch_loaded", "batch_finished", "validation_started"])
@pytest.mark.parametrize("kind", ["sampler", "sequential", "stateful"])
def test_a_stopped_run_goes_on_where_it_was_cut(signal: str, kind: str, tmp_path: Path) -> None:
    make = LOADERS[kind]
    whole = lives(tmp_path / "whole", make, []).results()
    (tmp_path / "cut").mkdir()
    cut = Life(tmp_path / "cut", make(), when=1000)
    step = STEPS if signal == "validation_started" else 3
    answer_on(cut.bus, signal, Stop("SIGTERM"), step=step)
    cut.train()
    resumed = Life(tmp_path / "cut", make(), when=1000).train().results()
    assert_equal(whole, resumed)


@pytest.mark.parametrize("signal", ["validation_done", "epoch_finished", "epoch_started"])
@pytest.mark.parametrize("kind", ["sampler", "shuffled", "stateful"])
def test_a_run_resumes_from_between_its_passes(signal: str, kind: str, tmp_path: Path) -> None:
    make = LOADERS[kind]
    whole = lives(tmp_path / "whole", make, []).results()
    (tmp_path / "cut").mkdir()
    with pytest.raises(Killed):
        Life(tmp_path / "cut", make(), kill_at=STEPS + 2, on=signal).train()
    resumed = Life(tmp_path / "cut", make(), on=signal).train()
    assert_equal(whole, resumed.results())
    assert [fields["round"] for fields in resumed.transcript.of("validation_done")] == [2]


def test_a_run_without_epochs_goes_on_within_its_data(tmp_path: Path) -> None:
    seen: list[int] = []

    def train(kill_at: int | None) -> None:
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, on="batch_finished", resume="auto"))
        if kill_at is not None:
            bus.on("batch_finished", priority=-10_000)(Life._killer(kill_at))
        with Run(bus) as run:
            for number in run.batches([1, 2, 3, 4, 5]):
                seen.append(number)
                run.report(loss=1.0)

    with pytest.raises(Killed):
        train(2)
    train(None)
    assert seen == [1, 2, 3, 4, 5]
