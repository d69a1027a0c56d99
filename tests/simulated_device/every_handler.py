"""No handler waits for the device between its due steps, nor a run with one that reads nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus, every
from eventbus.handlers import EMA, ConfusionMatrix, CutMix, GradientClipping, MixUp
from eventbus.loops import Run
from tests.handlers import test_confusion_matrix, test_ema
from tests.handlers.mixing import numbered
from tests.handlers.test_gradient_clipping import clip
from tests.handlers.test_no_synchronisation import (
    BATCHES,
    READERS,
    VALIDATION_BATCHES,
    every_handler,
    train,
    with_handler_between_due_steps,
)
from tests.loops.test_cuda import run_on
from tests.loops.transcripts import Transcript

from .device import NAME, Device


def on_device(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(NAME)


@contextmanager
def unwaited(device: Device) -> Iterator[None]:
    """Hold copies back; nobody waits for the device, on whichever thread that would be."""
    waits = device.waits
    with device.holding():
        yield
    assert device.waits == waits


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a default path leads


@every_handler
def test_handler_waits_for_no_device_between_its_due_steps(
    cls: type, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = with_handler_between_due_steps(cls, tmp_path, monkeypatch)
    overwritten = device.overwritten
    window = train(bus, on_device, lambda: unwaited(device))
    assert (window.steps, window.validated) == (BATCHES, VALIDATION_BATCHES)
    assert device.overwritten == overwritten


@pytest.mark.parametrize("reader", READERS)
def test_reading_within_the_window_is_noticed(
    device: Device, bus: EventBus, reader: Callable[..., object]
) -> None:
    bus.on("batch_finished")(reader)
    with pytest.raises(RuntimeError, match="synchronizes"):
        train(bus, on_device, device.holding)


@pytest.mark.parametrize("make", [MixUp, CutMix])
def test_batch_is_mixed_on_the_device_as_on_the_cpu(device: Device, make: Any) -> None:
    batch = [on_device(part) for part in numbered()]
    handlers = [make(6, alpha=1.0, seed=seed) for seed in (3, 3)]
    overwritten = device.overwritten
    with device.holding():
        mixed = handlers[0].alter(tuple(batch))
        assert device.under_way == 1
    device.finish()
    for part, expected in zip(mixed, handlers[1].alter(numbered()), strict=True):
        assert part.device.type == NAME
        assert torch.equal(part.cpu(), expected)
    assert device.overwritten == overwritten


def test_average_is_kept_and_lent_to_a_validation_unwaited(device: Device) -> None:
    model, ema = torch.nn.BatchNorm1d(8).to(NAME), EMA(validate=True)
    loop = test_ema.Loop(ema, model).start().steps(2)
    with unwaited(device):
        loop.steps(3)
        loop.begin_validation()
        loop.end_validation()


def test_gradients_are_clipped_unwaited(device: Device) -> None:
    model = torch.nn.Linear(8, 8).to(NAME)
    model(torch.ones(4, 8, device=NAME)).sum().backward()
    with unwaited(device):
        clip(GradientClipping(0.1), model=model)
        clip(GradientClipping(max_value=0.1), model=model)


def test_classes_are_counted_unwaited(device: Device) -> None:
    loop = test_confusion_matrix.Loop(ConfusionMatrix(when=every(2)))
    batch = on_device(test_confusion_matrix.SCORES), on_device(test_confusion_matrix.TARGETS)
    with unwaited(device):
        loop.validate(batch, batch)
    assert loop.handler.matrix is not None
    assert loop.handler.matrix.device.type == NAME


# -- runs


@pytest.fixture
def transcript(bus: EventBus) -> Transcript:
    return Transcript(bus)


def test_a_run_with_a_listener_that_reads_nothing_never_waits_for_the_device(
    device: Device, bus: EventBus, transcript: Transcript
) -> None:
    values = torch.arange(12.0).to(NAME).reshape(6, 2)
    with unwaited(device):
        run = run_on(bus, values)
    assert run.metrics["val_loss"] == 5.5
    assert transcript.of("epoch_finished")[0]["metrics"]["loss"] == 5.5


def test_a_read_waits_once_for_all_metrics(device: Device, bus: EventBus) -> None:
    values = torch.ones(3, 2, device=NAME)
    with Run(bus) as run:
        for _ in run.batches(list(values)):
            run.report(**{f"metric_{n}": torch.ones((), device=NAME) for n in range(5)})
        metrics, waits = run.metrics, device.waits
        assert set(metrics.values()) == {1.0}
        assert device.waits == waits + 1
