"""What only a CUDA device can show: nothing waits for it until somebody reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from eventbus import EventBus, RestoredState
from eventbus.loops import Run, fit

from .transcripts import Transcript

pytestmark = pytest.mark.gpu


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Make every synchronisation with the device an error."""
    torch.ones(1, device="cuda").item()  # starting CUDA synchronises
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def run_on(bus: EventBus, values: torch.Tensor) -> Run:
    """Train and validate on values that are on a device."""
    with Run(bus) as run:
        for _ in run.epochs(2):
            for batch in run.batches(list(values), accumulate=4):
                run.report(loss=batch.mean(), outputs=batch, targets=batch)
            for batch in run.validate(list(values)):
                run.report(loss=batch.mean())
    return run


@pytest.mark.usefixtures("no_waiting")
def test_a_run_with_a_listener_that_reads_nothing_never_waits_for_the_device(
    bus: EventBus, transcript: Transcript
) -> None:
    run = run_on(bus, torch.arange(12.0, device="cuda").reshape(6, 2))
    torch.cuda.set_sync_debug_mode("default")
    assert run.metrics["val_loss"] == 5.5
    assert transcript.of("epoch_finished")[0]["metrics"]["loss"] == 5.5


@pytest.mark.usefixtures("no_waiting")
def test_a_read_waits_once_for_all_metrics(bus: EventBus) -> None:
    with Run(bus) as run:
        for _ in run.batches(list(torch.ones(3, 2, device="cuda"))):
            run.report(**{f"metric_{n}": torch.ones((), device="cuda") for n in range(5)})
        metrics = run.metrics
        torch.cuda.set_sync_debug_mode("default")
        with torch.profiler.profile() as profile:
            assert set(metrics.values()) == {1.0}
        torch.cuda.set_sync_debug_mode("error")
    copies = [event for event in profile.events() or [] if "Memcpy DtoH" in event.name]
    assert len(copies) == 1


def test_fit_goes_to_the_device_and_back(bus: EventBus) -> None:
    model = nn.Linear(2, 2)
    batch: Any = (torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
    run = fit(
        bus,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=functional.cross_entropy,
        train_loader=[batch],
        validation_loader=[batch],
        epochs=1,
    )
    assert model.weight.device.type == "cuda"
    assert run.metrics.tensors["val_loss"].device.type == "cuda"  # type: ignore[union-attr]


def test_the_generators_of_cuda_are_saved_and_restored(bus: EventBus) -> None:
    torch.ones(1, device="cuda")
    with Run(bus):
        state = bus.emit("state_requested").state
        first = torch.rand(3, device="cuda").tolist()
        bus.emit("state_restored", state=RestoredState(state))
        assert torch.rand(3, device="cuda").tolist() == first
