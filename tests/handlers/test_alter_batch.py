"""AlterBatch: what the loop trains on, and that chance repeats itself."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus, RestoredState, every
from eventbus.handlers import AlterBatch, Checkpoint
from eventbus.loops import Run

from .unread import Unread, unread


def noise(batch: Any, generator: torch.Generator) -> Any:
    return float(torch.rand((), generator=generator))


class Loop:
    """Loads batches over a bus."""

    def __init__(self, *handlers: AlterBatch) -> None:
        self.bus = EventBus(strict=True)
        for number, handler in enumerate(handlers):
            self.bus.attach(handler, name=f"AlterBatch-{number}")
        self.emitter = self.bus.bind(sender="train")

    def start(self, resumed_from: str | None = None) -> Loop:
        self.emitter.emit("run_started", resumed_from=resumed_from)
        return self

    def load(self, *batches: Any, epoch: int = 1) -> list[Any]:
        places = [{"epoch": epoch, "step": n, "batch_index": n} for n in range(1, 1 + len(batches))]
        return [
            self.emitter.transform("batch_loaded", batch, **place)
            for batch, place in zip(batches, places, strict=True)
        ]


def test_loop_gets_what_the_function_returns() -> None:
    assert Loop(AlterBatch(lambda batch: batch * 10)).load(1, 2) == [10, 20]


def test_none_keeps_the_batch() -> None:
    assert Loop(AlterBatch(lambda batch: None)).load(1, 2) == [1, 2]


def test_alterations_follow_each_other_in_the_order_they_were_attached() -> None:
    loop = Loop(AlterBatch(lambda batch: batch + 1), AlterBatch(lambda batch: batch * 10))
    assert loop.load(1) == [20]


def test_filter_says_which_batches() -> None:
    loop = Loop(AlterBatch(lambda batch: -batch, when=every(2)))
    assert loop.load(1, 2, 3, 4) == [1, -2, 3, -4]


def test_filter_may_name_fields() -> None:
    loop = Loop(AlterBatch(lambda batch: -batch, when=lambda epoch: epoch > 1))
    assert loop.load(1, epoch=1) + loop.load(1, epoch=2) == [1, -1]


def test_failing_function_stops_the_run_as_itself() -> None:
    def fail(batch: Any) -> Any:
        raise KeyError("label")

    with pytest.raises(KeyError, match="label"):
        Loop(AlterBatch(fail)).load(1)


def test_tensors_are_handed_on_unread() -> None:
    loop = Loop(AlterBatch(lambda batch: batch * 2))
    (batch,) = loop.load(unread([1.0]))
    assert isinstance(batch, Unread)


def test_anything_that_can_be_called_serves() -> None:
    assert Loop(AlterBatch(torch.nn.Flatten(0))).load(torch.ones(2, 2))[0].shape == (4,)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a function of the batch; got 3"):
        AlterBatch(3)  # type: ignore[arg-type]  # that is the test


# -- chance


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seed_that_is_too_large_is_refused_when_it_is_made(seed: int) -> None:
    with pytest.raises(ValueError, match=f"AlterBatch: seed is from .* got {seed}"):
        AlterBatch(noise, seed=seed)


def test_largest_and_smallest_seeds_are_taken() -> None:
    assert [AlterBatch(noise, seed=seed).seed for seed in (2**64 - 1, -(2**63))]


def test_same_seed_draws_the_same() -> None:
    one, other = Loop(AlterBatch(noise, seed=5)), Loop(AlterBatch(noise, seed=5))
    assert one.load(*range(9)) == other.load(*range(9))
    assert Loop(AlterBatch(noise, seed=6)).load(0) != Loop(AlterBatch(noise, seed=5)).load(0)


def test_other_random_numbers_are_neither_used_nor_changed() -> None:
    def drawn(*handlers: AlterBatch, seed: int) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        random.seed(seed)
        batches = Loop(*handlers).load(*range(3))
        return batches, (torch.rand(()).item(), random.random())

    first, second = drawn(AlterBatch(noise), seed=1), drawn(AlterBatch(noise), seed=2)
    assert first[0] == second[0]
    assert first[1] == drawn(seed=1)[1]


def test_fresh_run_begins_with_the_seed_again() -> None:
    loop = Loop(AlterBatch(noise))
    first = loop.start().load(*range(3))
    assert loop.start().load(*range(3)) == first


@pytest.mark.parametrize("cut", range(4))
def test_resumed_run_draws_on_where_the_checkpoint_was(cut: int) -> None:
    whole = Loop(AlterBatch(noise)).start().load(*range(4))
    first = Loop(AlterBatch(noise)).start()
    found = first.load(*range(cut))
    file = io.BytesIO()
    torch.save(first.emitter.emit("state_requested").state, file)
    file.seek(0)
    second = Loop(AlterBatch(noise))
    state = RestoredState(torch.load(file, weights_only=True))
    second.bus.emit("state_restored", state=state, path="x")
    assert found + second.start("x").load(*range(4 - cut)) == whole


def test_run_that_was_resumed_from_a_real_checkpoint_trains_on_the_same(tmp_path: Path) -> None:
    def train(folder: str, fail_in: int | None = None) -> list[Any]:
        bus, seen = EventBus(strict=True), []
        bus.attach(AlterBatch(noise))
        bus.attach(Checkpoint(tmp_path / folder, resume="auto", best=None))
        with Run(bus) as run:
            for epoch in run.epochs(4):
                for batch in run.batches([1, 2]):
                    seen.append(batch)
                    run.report(loss=1.0)
                    if epoch == fail_in:
                        raise KeyboardInterrupt
        return seen

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", fail_in=3)
    assert train("cut") == whole[4:]
