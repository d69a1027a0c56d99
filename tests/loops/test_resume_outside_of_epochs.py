"""A run without epochs, or with more than them: what was done of it is passed over when resumed."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from eventbus import Event, EventBus, Stop, handles
from eventbus.handlers import Checkpoint, EarlyStopping
from eventbus.loops import Run

from .test_resume_in_a_body import Killed, hasty_checkpoint

ON = ("batch_finished", "validation_done")


class Witness:
    """Writes down what was trained on and validated; its notes are its state."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @handles(*ON)
    def note(self, event: Event) -> None:
        name = event.fields.get("name", "step")
        self.seen.append(f"{name} {event.fields['step']} {dict(event.fields['metrics'])}")

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = list(state["seen"])


def step_through(run: Run, data: Iterable[int], until: int | None = None) -> None:
    for number in run.batches(data):
        run.report(loss=number + random.random())
        if run.step == until:
            break


def validate(run: Run, name: str = "val") -> None:
    for number in run.validate([1, 2], name):
        run.report(loss=number + random.random())


def passes(run: Run) -> None:
    for _ in range(3):
        step_through(run, [1, 2])
        validate(run)


def one_after_the_other(run: Run) -> None:
    step_through(run, [1, 2, 3])
    validate(run, "between")
    step_through(run, [4, 5])
    validate(run)


def passes_that_are_left(run: Run) -> None:
    step_through(run, [1, 2, 3], until=2)
    validate(run)
    step_through(run, [4, 5, 6], until=4)
    step_through(run, [7, 8, 9])


def before_and_after_epochs(run: Run) -> None:
    for _ in run.epochs(2):
        step_through(run, [1, 2])
        validate(run)
        step_through(run, [3])
    validate(run, "test")


def by_steps(run: Run) -> None:
    for step in run.steps(6):
        if step % 3 == 1:
            validate(run)
            if run.stop:
                break
        run.report(loss=random.random())
    validate(run, "test")


LOOPS = [passes, one_after_the_other, passes_that_are_left, before_and_after_epochs, by_steps]
Loop = Callable[[Run], None]


def live(
    loop: Loop, folder: Path | None, cut_at: int | None = None, by_stop: bool = False
) -> list[str]:
    """Run a loop, which ends after so many emissions; return what was seen in all its lives."""
    random.seed(1)
    bus, witness = EventBus(strict=True), Witness()
    bus.attach(witness)
    if folder is not None:
        bus.attach(hasty_checkpoint(folder, on=ON))

    @bus.on(*ON, "validation_batch_finished", priority=-10_000)
    def cut() -> Stop | None:
        nonlocal cut_at
        cut_at = None if cut_at is None else cut_at - 1
        if cut_at != 0:
            return None
        if by_stop:
            return Stop("SIGTERM")
        raise Killed

    with Run(bus) as run:
        loop(run)
    return witness.seen


@pytest.mark.parametrize("by_stop", [False, True], ids=["killed", "stopped"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_that_is_cut_anywhere_ends_as_one_that_was_not(
    loop: Loop, by_stop: bool, tmp_path: Path
) -> None:
    whole = live(loop, None)
    validated = sum(not one.startswith("step") for one in whole)
    for cut_at in range(1, len(whole) + 2 * validated + 1):  # two batches in each validation
        folder = tmp_path / str(cut_at)
        if by_stop:
            live(loop, folder, cut_at, by_stop)
        else:
            with pytest.raises(Killed):
                live(loop, folder, cut_at)
        assert live(loop, folder) == whole


def sanity_first(run: Run) -> None:
    validate(run, "sanity")
    before_and_after_epochs(run)


def test_a_validation_before_the_epochs_is_done_in_each_life_and_costs_no_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = live(sanity_first, None)
    with pytest.raises(Killed):
        live(sanity_first, tmp_path, cut_at=9)  # in the second pass of the first epoch
    with caplog.at_level(logging.WARNING, logger="eventbus.loops"):
        resumed = live(sanity_first, tmp_path)
    assert [one.split()[:2] for one in resumed if not one.startswith("sanity")] == [
        one.split()[:2] for one in whole if not one.startswith("sanity")
    ]
    assert [text for text in caplog.messages if "passed over" in text] == []


def test_batches_before_the_epochs_of_a_resumed_run_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warmed_up(run: Run) -> None:
        step_through(run, [8, 9])
        before_and_after_epochs(run)

    with pytest.raises(Killed):
        live(before_and_after_epochs, tmp_path, cut_at=1)
    with caplog.at_level(logging.WARNING, logger="eventbus.loops"):
        resumed = live(warmed_up, tmp_path)
    (told,) = [text for text in caplog.messages if "before the loop over epochs" in text]
    assert "within epoch 1" in told
    assert "that epoch will begin anew" in told
    assert [one.split()[:2] for one in resumed[:5]] == [["step", str(n)] for n in range(1, 6)]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_run_that_came_to_its_end_does_nothing_again(loop: Loop, tmp_path: Path) -> None:
    whole = live(loop, tmp_path)
    for _ in range(3):
        assert live(loop, tmp_path) == whole


def test_a_validation_after_the_loop_is_not_counted_again_by_a_finished_run(tmp_path: Path) -> None:
    def train(steps: int) -> tuple[int, str | None]:
        bus, stopping = EventBus(), EarlyStopping("val_loss", patience=2)
        bus.attach(stopping)
        bus.attach(Checkpoint(tmp_path, resume="auto", best=None))
        with Run(bus) as run:
            for _ in run.steps(steps):
                run.report(loss=1.0)
            with run.validation():
                run.report(loss=1.0)
        return stopping.observations, run.outcome

    assert [train(2) for _ in range(4)] == [(1, "completed")] * 4
    assert train(3) == (2, "completed")  # it goes on, and then validates


def test_who_goes_on_from_the_end_of_a_run_may_validate_it(tmp_path: Path) -> None:
    live(before_and_after_epochs, tmp_path)

    def evaluate(run: Run) -> None:
        validate(run, "test")

    for times in (2, 3):
        assert [one.split()[0] for one in live(evaluate, tmp_path)][-times:] == ["test"] * times


def test_a_finished_run_that_validates_before_its_epochs_leaves_out_what_comes_after_them(
    tmp_path: Path,
) -> None:
    whole = live(sanity_first, tmp_path)
    again = live(sanity_first, tmp_path)
    assert [one.split()[0] for one in again[len(whole) :]] == ["sanity"]


def test_a_finished_run_gives_its_last_validation_to_the_script_again(tmp_path: Path) -> None:
    told: list[str] = []

    def script() -> int:
        bus, total = EventBus(), 0
        bus.attach(Checkpoint(tmp_path, on="batch_finished", resume="auto", best=None))
        bus.on("validation_*")(lambda event: told.append(event.name))
        with Run(bus, model=nn.Linear(1, 1)) as run:
            for _ in run.epochs(2):
                for _ in run.batches([1, 2]):
                    run.report(loss=1.0)
            for batch in run.validate([1, 2, 3], name="test"):
                total += batch
                run.report(loss=1.0)
        return total

    assert [script() for _ in range(3)] == [6, 6, 6]
    assert told.count("validation_done") == 1
