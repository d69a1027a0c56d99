"""A `Run` with an Accelerator: whose boundary it is, and resuming through its loaders."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from eventbus import EventBus, Stop, StopEpoch, every
from eventbus.handlers import Checkpoint
from eventbus.loops import ResumableSampler, Run

pytest.importorskip("accelerate")
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState

from eventbus.loops.accelerate import accumulate


@pytest.fixture(autouse=True)
def no_state_left() -> Iterator[None]:
    """Accelerate keeps its state for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def samples() -> TensorDataset:
    return TensorDataset(torch.arange(24.0).reshape(12, 2))


class Training:
    """A loop by hand that accumulates two micro-batches."""

    def __init__(self, accelerator: Accelerator, loader: DataLoader[Any]) -> None:
        torch.manual_seed(0)
        self.accelerator = accelerator
        self.bare = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(self.bare.parameters(), lr=0.001, momentum=0.9)
        prepared = accelerator.prepare(self.bare, optimizer, loader)
        self.model, self.optimizer, self.loader = prepared
        self.seen: list[list[float]] = []

    def run(self, bus: EventBus, epochs: int = 2, steps_of: int = 2) -> Run:
        with Run(bus, model=self.bare, optimizer=self.optimizer) as run:
            for _ in run.epochs(epochs):
                for (batch,) in run.batches(self.loader, accumulate=steps_of):
                    self.seen.append(batch.flatten().tolist())
                    with accumulate(run, self.accelerator, self.model):
                        loss = self.model(batch).square().mean()
                        self.accelerator.backward(loss)
                        self.optimizer.step()
                        self.optimizer.zero_grad()
                    run.report(loss=loss)
        return run

    @property
    def weight(self) -> Tensor:
        return self.bare.weight.detach().clone()


def test_the_optimizer_steps_where_the_run_has_its_boundary() -> None:
    training = Training(
        Accelerator(cpu=True, gradient_accumulation_steps=2), DataLoader(samples(), 4)
    )
    weights = []
    bus = EventBus()
    bus.on("batch_loaded")(lambda batch: weights.append(training.weight))
    assert training.run(bus, epochs=1).step == 2
    moved = [not torch.equal(a, b) for a, b in pairwise([*weights, training.weight])]
    assert moved == [False, True, True]  # three micro-batches: the last one is a step of its own


def test_a_stop_epoch_waits_for_the_step_to_be_whole_with_accelerate_too() -> None:
    training = Training(
        Accelerator(cpu=True, gradient_accumulation_steps=3), DataLoader(samples(), 2)
    )
    bus = EventBus()

    @bus.on("batch_loaded")
    def enough(batch_index: int) -> StopEpoch | None:
        return StopEpoch("enough") if batch_index == 2 else None

    before = training.weight
    run = training.run(bus, epochs=1, steps_of=3)
    assert (run.step, len(training.seen)) == (1, 3)
    assert not torch.equal(training.weight, before)


def test_another_number_of_micro_batches_is_refused_in_one_line() -> None:
    training = Training(
        Accelerator(cpu=True, gradient_accumulation_steps=4), DataLoader(samples(), 4)
    )
    with pytest.raises(ValueError, match="give both the same number") as refused:
        training.run(EventBus())
    assert str(refused.value) == (
        "run.batches(loader, accumulate=2) with Accelerator(gradient_accumulation_steps=4): "
        "give both the same number"
    )


def sampled() -> tuple[Accelerator, DataLoader[Any]]:
    loader = DataLoader(samples(), 2, sampler=ResumableSampler(samples(), seed=3))
    return Accelerator(cpu=True, gradient_accumulation_steps=2), loader


def stateful() -> tuple[Accelerator, DataLoader[Any]]:
    pytest.importorskip("torchdata")
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=2,
        dataloader_config=DataLoaderConfiguration(use_stateful_dataloader=True),
    )
    return accelerator, DataLoader(samples(), 2)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata's own
@pytest.mark.parametrize("parts", [sampled, stateful])
def test_a_run_goes_on_within_the_data_of_a_prepared_loader(parts: Any, tmp_path: Path) -> None:
    whole = Training(*parts())
    whole.run(EventBus())
    first, second = Training(*parts()), Training(*parts())
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, on="batch_finished", when=every(1)))
    bus.on("batch_finished")(lambda step: Stop("cut") if step == 2 else None)
    first.run(bus)
    later = EventBus()
    later.attach(Checkpoint(tmp_path, on="batch_finished", resume="auto"))
    second.run(later)
    assert first.seen + second.seen == whole.seen
    torch.testing.assert_close(second.weight, whole.weight, rtol=0, atol=0)
