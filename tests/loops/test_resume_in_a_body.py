"""A validation in the body of a step: what a run resumes exactly, and what it says it cannot."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from eventbus import Event, EventBus, Stop, handles
from eventbus.handlers import Checkpoint
from eventbus.handlers._files import Files
from eventbus.loops import Run

EVERY, STEPS = 3, 5
LOOPS = ("steps", "epochs")
SIGNALS = [
    "batch_started",
    "batch_finished",
    "validation_started",
    "validation_batch_finished",
    "validation_done",
]


class Killed(BaseException):
    """The process is gone: nothing after it is written."""


class Weight(torch.nn.Module):
    """A model of one number, which each step of its optimizer changes."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.tensor(1.0))
        self.optimizer = torch.optim.SGD([self.number], lr=0.5)

    @property
    def value(self) -> float:
        return self.number.item()

    def step(self) -> float:
        self.number.grad = self.number.detach() - 2.0
        self.optimizer.step()
        return self.value


class Witness:
    """Writes down what a handler sees of steps and validations; its notes are its state."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @handles("batch_finished", "validation_done")
    def note(self, event: Event) -> None:
        number = event.fields.get("round", event.fields["step"])
        self.seen.append(f"{event.name} {number} {dict(event.fields['metrics'])}")

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = list(state["seen"])


class Hasty(Files):
    """A file system that waits for no disk: only the process dies here."""

    def fsync(self, file: Any) -> None:
        pass

    def fsync_directory(self, path: Path) -> None:
        pass


def hasty_checkpoint(folder: Path, on: str | tuple[str, ...]) -> Checkpoint:
    """Return what saves and resumes everything, but waits for no disk."""
    checkpoint = Checkpoint(folder, on=on, resume="auto", best=None)
    checkpoint.files = Hasty()
    return checkpoint


class Way(NamedTuple):
    """Which loop, where in its body it validates, and what its checkpoints are saved on."""

    loop: str
    place: str
    on: str


class Life:
    """One process, with its model, its handlers and its loop."""

    def __init__(self, folder: Path, way: Way) -> None:
        self.loop, self.place, on = way
        self.weight, self.witness, self.bus = Weight(), Witness(), EventBus(strict=True)
        self.bus.attach(self.witness)
        self.bus.attach(hasty_checkpoint(folder, on))

    def train(self) -> list[str]:
        with Run(self.bus, model=self.weight, optimizer=self.weight.optimizer) as run:
            if self.loop == "epochs":
                for _ in run.epochs(1):
                    self.go_through(run, run.batches(range(STEPS)))
            else:
                self.go_through(run, run.steps(STEPS))
        return [*self.witness.seen, f"weight {self.weight.value}"]

    def go_through(self, run: Run, steps: Iterable[Any]) -> None:
        for _ in steps:
            if self.place == "top" and run.step % EVERY == 1:
                self.validate(run)
                if run.stop:
                    break
            loss = self.weight.step()
            if self.place == "before the report" and run.step % EVERY == 0:
                self.validate(run)
            run.report(loss=loss)
            if self.place == "after the report" and run.step % EVERY == 0:
                self.validate(run)

    def validate(self, run: Run) -> None:
        for number in run.validate([1.0, 2.0]):
            run.report(loss=self.weight.value * number)

    def cut(self, signal: str, step: int, by: Callable[[], object], priority: int) -> Life:
        def cutting(event: Event) -> object:
            return by() if event.fields["step"] == step else None

        self.bus.on(signal, priority=priority)(cutting)
        return self


def kill() -> None:
    raise Killed


def stop() -> Stop:
    return Stop("SIGTERM")


PLACES = ("top", "before the report", "after the report")
WAYS = [Way("epochs", place, on) for place in PLACES for on in SIGNALS]
WAYS += [Way("steps", place, on) for place in PLACES for on in ("batch_finished", SIGNALS[-1])]


@pytest.fixture(scope="module")
def whole_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Way], list[str]]:
    """Return what trains to the end in one life; what checkpoints are saved on changes nothing."""

    @functools.cache
    def trained(loop: str, place: str) -> list[str]:
        return Life(tmp_path_factory.mktemp("whole"), Way(loop, place, "epoch_finished")).train()

    return lambda way: trained(way.loop, way.place)


def resumed(folder: Path, way: Way, signal: str, by: Callable[[], object]) -> list[str]:
    """Cut a life at a signal of the step with a validation, and train to the end in another."""
    step = 4 if way.place == "top" else 3
    first = Life(folder, way).cut(signal, step, by, priority=-10_000 if by is kill else 0)
    with pytest.raises(Killed) if by is kill else nullcontext():
        first.train()
    return Life(folder, way).train()


@pytest.fixture
def left_out(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that gives the warnings of validations left out."""
    caplog.set_level(logging.WARNING, logger="eventbus.loops")
    return lambda: [text for text in caplog.messages if "leaves it out" in text]


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_does_each_validation_once(
    way: Way,
    signal: str,
    whole_of: Callable[[Way], list[str]],
    tmp_path: Path,
    left_out: Callable[[], list[str]],
) -> None:
    assert resumed(tmp_path, way, signal, kill) == whole_of(way)
    assert left_out() == []


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("way", [way for way in WAYS if way.place == "top"])
def test_a_stop_in_a_validation_at_the_top_of_a_body_has_it_done_again(
    way: Way,
    signal: str,
    whole_of: Callable[[Way], list[str]],
    tmp_path: Path,
    left_out: Callable[[], list[str]],
) -> None:
    assert resumed(tmp_path, way, signal, stop) == whole_of(way)
    assert left_out() == []


@pytest.mark.parametrize("signal", ["validation_started", "validation_batch_finished"])
@pytest.mark.parametrize("way", [way for way in WAYS if way.place != "top"])
def test_a_validation_that_a_stop_has_cut_in_a_finished_step_is_told_of(
    way: Way, signal: str, tmp_path: Path, left_out: Callable[[], list[str]]
) -> None:
    resumed(tmp_path, way, signal, stop)
    assert len(left_out()) == 1


def test_each_validation_that_is_left_out_is_named(
    tmp_path: Path, left_out: Callable[[], list[str]]
) -> None:
    def train(stops: bool) -> None:
        bus = EventBus()
        bus.attach(Checkpoint(tmp_path, on="batch_finished", resume="auto", best=None))
        with Run(bus) as run:
            for _ in run.steps(2):
                run.report(loss=1.0)
                if stops:
                    bus.answer(Stop("SIGTERM"))
                for name in ("val", "test"):
                    for _ in run.validate([1], name):
                        run.report(loss=1.0)

    train(stops=True)
    train(stops=False)
    (told,) = left_out()
    assert "validation 'val' and 'test' in it" in told
    train(stops=False)
    assert left_out() == [told]  # the second life has saved again, with nothing undone


def train_with_averages(folder: Path, on: str, accumulate: int, kill_at: int | None) -> Any:
    """Train a model whose forward changes it, and validate in a body that draws."""
    torch.manual_seed(1)
    bus, kills = EventBus(strict=True), iter([False] * (kill_at or 1000) + [True])
    bus.attach(Checkpoint(folder, on=on, resume="auto", best=None))

    @bus.on(on, priority=-10_000)
    def die() -> None:
        if next(kills):
            raise Killed

    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    drawn: list[float] = []
    data = torch.arange(32.0).reshape(4, 4, 2).cos()
    with Run(bus, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(2):
            for batch in run.batches(list(data), accumulate=accumulate):
                loss = model(batch).square().mean()
                loss.backward()
                if run.boundary:
                    run.emit("backward_finished", loss=loss)
                    optimizer.step()
                    optimizer.zero_grad()
                run.report(loss=loss)
            for _batch in run.validate([1, 2]):
                drawn.append(torch.rand(()).item())
                run.report(loss=drawn[-1])
    state = {name: part.tolist() for name, part in model.state_dict().items()}
    return state, dict(run.metrics), drawn[-2:], torch.get_rng_state().tolist()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "on", ["batch_loaded", "batch_started", "backward_finished", "validation_batch_finished"]
)
def test_a_save_in_the_midst_is_one_that_a_run_goes_on_from(
    on: str, accumulate: int, tmp_path: Path
) -> None:
    whole = train_with_averages(tmp_path / "whole", on, accumulate, None)
    kill_at = 2 if on.startswith("validation") else 3
    with pytest.raises(Killed):
        train_with_averages(tmp_path / "run", on, accumulate, kill_at)
    assert train_with_averages(tmp_path / "run", on, accumulate, None) == whole
