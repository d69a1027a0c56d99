"""What the body of an epoch draws outside of its loops, a run resumed within it draws again."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus, Stop, at
from eventbus.loops import Run

from .test_resume_in_a_body import Killed, hasty_checkpoint
from .test_resume_outside_of_epochs import Witness
from .test_run_state import Saver, restore

ON = ("batch_finished", "validation_done")
Loop = Callable[[Run], None]


def train(run: Run, order: list[Any], until: int | None = None) -> None:
    for number in run.batches(order):
        run.report(loss=number + random.random())
        if run.step == until:
            break


def validate(run: Run, name: str = "val", drawn: float = 0.0) -> None:
    for number in run.validate([1, 2], name):
        run.report(loss=number + drawn + random.random())


def drawn_order(run: Run) -> None:
    for _ in run.epochs(2):
        train(run, torch.randperm(4).tolist())
        validate(run, drawn=random.random())


def rollout_and_passes(run: Run) -> None:
    for _ in run.epochs(2):
        rollout = [random.random() for _ in range(3)]
        for _ in range(3):
            train(run, random.sample(rollout, 2))


def gaps(run: Run) -> None:
    for _ in run.epochs(2):
        rollout = random.random()
        validate(run, "first", random.random())
        validate(run, "second", random.random())
        train(run, random.sample(range(9), 2))
        with run.validation("held"):
            run.report(loss=random.random())
        train(run, random.sample(range(9), 2))
        validate(run, drawn=rollout)


def passes_that_are_left(run: Run) -> None:
    for epoch in run.epochs(2):
        train(run, random.sample(range(9), 3), until=4 * epoch - 2)
        validate(run)
        train(run, random.sample(range(9), 2))


def steps_in_epochs(run: Run) -> None:
    for epoch in run.epochs(2):
        rollout = [random.random() for _ in range(3)]
        for step in run.steps(3 * epoch):
            run.report(loss=rollout[step % 3] + random.random())
        validate(run, drawn=random.random())


def generators() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate()]


def live(
    loop: Loop, folder: Path | None, cut_at: int | None = None, by_stop: bool = False
) -> list[Any]:
    """Run a loop that ends after so many emissions; return all that was seen, and what is next."""
    random.seed(1)
    torch.manual_seed(1)
    bus, witness, emissions = EventBus(strict=True), Witness(), count(1)
    bus.attach(witness)
    if folder is not None:
        bus.attach(hasty_checkpoint(folder, on=ON))

    @bus.on("batch_started", *ON, "validation_batch_finished", priority=-10_000)
    def cut() -> Stop | None:
        if next(emissions) != cut_at:
            return None
        if by_stop:
            return Stop("SIGTERM")
        raise Killed

    with Run(bus) as run:
        loop(run)
    return [*witness.seen, torch.get_rng_state().tolist(), random.getstate()]


def emissions_of_an_epoch(seen: list[Any]) -> int:
    """Return how many `cut` hears: of a step two, of a validation with two batches three."""
    names = [one.split()[0] for one in seen if isinstance(one, str)]
    return sum({"step": 2, "held": 1}.get(name, 3) for name in names) // 2


LOOPS = [drawn_order, rollout_and_passes, gaps, passes_that_are_left, steps_in_epochs]


@pytest.mark.parametrize("by_stop", [False, True], ids=["killed", "stopped"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_body_that_draws_is_gone_through_again_with_the_same_draws(
    loop: Loop, by_stop: bool, tmp_path: Path
) -> None:
    whole = live(loop, None)
    each = emissions_of_an_epoch(whole)
    for cut_at in range(each + 1, 2 * each + 1):  # within the second epoch
        folder = tmp_path / str(cut_at)
        with nullcontext() if by_stop else pytest.raises(Killed):
            live(loop, folder, cut_at, by_stop)
        assert live(loop, folder) == whole


def stopped_in_the_body(run: Run, when: int) -> None:
    """Have a `Stop` come `when` the body of the epoch draws its order, for the so many-th time."""
    for _ in run.epochs(2):
        order = random.sample(range(9), 4)
        when -= 1
        if when == 0:
            run.bus.answer(Stop("SIGTERM"))
        train(run, order)
        validate(run, drawn=random.random())


def test_a_run_that_is_stopped_again_before_it_comes_to_its_place_keeps_it(tmp_path: Path) -> None:
    whole = live(partial(stopped_in_the_body, when=0), None)
    for cut_at in range(1, emissions_of_an_epoch(whole) + 1):
        folder = tmp_path / str(cut_at)
        live(partial(stopped_in_the_body, when=0), folder, cut_at, by_stop=True)
        live(partial(stopped_in_the_body, when=1), folder)
        assert live(partial(stopped_in_the_body, when=0), folder) == whole


def test_a_checkpoint_that_does_not_tell_of_the_draws_is_gone_on_from(bus: EventBus) -> None:
    saver = Saver(bus, "batch_finished", when=at(6))
    with Run(bus) as run:
        drawn_order(run)
    parts = saver.parts()
    assert parts["loop"]["position"].pop("draws").keys() == {"top"}
    restore(bus, parts)
    with Run(bus) as run:
        drawn_order(run)
    assert (run.outcome, run.epoch, run.step) == ("completed", 2, 8)


def test_what_the_body_draws_is_forgotten_with_its_epoch(bus: EventBus) -> None:
    saver = Saver(bus)
    with Run(bus) as run:
        drawn_order(run)
    assert "draws" not in saver.parts()["loop"]["position"]
