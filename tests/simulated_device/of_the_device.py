"""The simulated device itself: late where CUDA is, in its order, and it tells who waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from .device import NAME, Device, pattern

READERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda values: values[0].item(),
    "cpu": lambda values: values.cpu(),
    "tolist": lambda values: values.tolist(),
    "bool": lambda values: bool(values[0] > 0),
    "equal": lambda values: torch.equal(values, values),
    "nonzero": lambda values: values.nonzero(),
    "mask": lambda values: values[values > 0],
    "mask assigned": lambda values: values.index_put_((values > 0,), values[:2]),
    "to memory that is not pinned": lambda values: torch.empty(2).copy_(values, non_blocking=True),
    "from memory that is not pinned": lambda values: torch.ones(2).to(NAME, non_blocking=True),
    "blocking, to pinned memory": lambda values: torch.empty(2, pin_memory=True).copy_(values),
    "new": lambda values: torch.tensor([1.0], device=NAME),
    "synchronize": lambda values: torch.accelerator.synchronize(),
}

WORK: dict[str, Callable[[torch.Tensor], Any]] = {
    "arithmetic": lambda values: values * 2 + 1,
    "in place": lambda values: values.add_(1),
    "filled": lambda values: torch.zeros(3, device=values.device).fill_(2.0),
    "view": lambda values: values.view(1, 2).T,
    "norm": lambda values: torch._foreach_norm([values]),  # pyright: ignore[reportPrivateImportUsage]  # torch has no public one
    "places": lambda values: values[torch.zeros(2, dtype=torch.long, device=values.device)],
    "to pinned memory": lambda values: values.to("cpu", non_blocking=True),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_waiting_is_counted_and_fails_where_copies_are_held_back(
    device: Device, reader: Callable[[torch.Tensor], Any]
) -> None:
    values, before = torch.ones(2, device=NAME), device.waits
    with device.holding(), pytest.raises(RuntimeError, match="synchronizes"):
        reader(values)
    assert device.waits == before + 1


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_work_of_the_device_is_not_waited_for(
    device: Device, work: Callable[[torch.Tensor], Any]
) -> None:
    values, before = torch.ones(2, device=NAME), device.waits
    with device.holding():
        work(values)
    assert device.waits == before


def test_a_copy_holds_a_pattern_before_it_has_arrived(device: Device) -> None:
    values = torch.arange(3.0).to(NAME)
    with device.holding():
        copy = values.to("cpu", non_blocking=True)
        arrived = torch.accelerator.current_stream().record_event()
        assert copy.is_pinned()
        assert copy.tolist() == [pattern()] * 3
        assert not arrived.query()
    arrived.synchronize()
    assert copy.tolist() == [0.0, 1.0, 2.0]


def test_what_is_queued_after_a_copy_does_not_change_it(device: Device) -> None:
    values = torch.ones(3, device=NAME)
    with device.holding():
        copy = values.to("cpu", non_blocking=True)
        values.zero_()
    device.finish()
    assert copy.tolist() == [1.0, 1.0, 1.0]


def test_an_event_tells_of_its_own_stream_alone(device: Device) -> None:
    values = torch.ones(3, device=f"{NAME}:1")
    with device.holding():
        values.to("cpu", non_blocking=True)
        assert torch.accelerator.current_stream(0).record_event().query()
        assert not torch.accelerator.current_stream(1).record_event().query()


@pytest.mark.parametrize("changed", [False, True])
def test_memory_that_is_changed_on_its_way_to_the_device_is_noticed(
    device: Device, changed: bool
) -> None:
    source, before = torch.ones(3).pin_memory(), device.overwritten
    with device.holding():
        source.to(NAME, non_blocking=True)
        source += changed
    device.finish()
    assert device.overwritten == before + changed
