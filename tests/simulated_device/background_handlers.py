"""What a background handler is given comes from the device while the loop goes on."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch

from eventbus import EventBus
from eventbus.copies import Copies
from tests.eventbus.backends import settle

from .device import NAME, Device


class Unread(Mapping[str, float]):
    """Metrics as loops send them: whoever reads one waits for the device."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = MappingProxyType(tensors)

    def __getitem__(self, key: str) -> float:
        return self.tensors[key].item()

    def __iter__(self) -> Any:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def hear(bus: EventBus) -> list[Any]:
    """Subscribe a background handler that reads all that it is given."""
    seen: list[Any] = []

    def read(loss: Any, batch: Any, metrics: Any) -> None:
        batch = {name: part.tolist() for name, part in batch.items()}
        seen.append((threading.current_thread(), loss.item(), batch, dict(metrics)))

    bus.on("batch_finished", background=True)(read)
    return seen


def fields_on(device: str) -> dict[str, Any]:
    whole = torch.arange(6.0, device=device).view(2, 3)
    batch = {"turned": whole.T, "part": whole[1, 1:], "labels": torch.arange(2, device=device)}
    loss = torch.tensor(0.5, device=device, requires_grad=True)
    metrics = Unread({"norm": torch.tensor(2.0, device=device)})
    return {"loss": loss, "batch": batch, "metrics": metrics}


EXPECTED = {"turned": [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], "part": [4.0, 5.0], "labels": [0, 1]}


def change(fields: dict[str, Any]) -> None:
    for tensor in (fields["loss"].detach(), *fields["batch"].values()):
        tensor.add_(7)


@pytest.mark.parametrize("where", [f"{NAME}:0", f"{NAME}:1"])
def test_emission_returns_before_anything_has_arrived(
    device: Device, bus: EventBus, where: str
) -> None:
    seen, fields = hear(bus), fields_on(where)
    waits = device.waits
    with device.holding():
        bus.emit("batch_finished", epoch=1, step=1, **fields)
        change(fields)
        assert device.under_way == 5
        assert device.is_waited_for()
        assert seen == []
    settle(bus)
    ((thread, *given),) = seen
    assert given == [0.5, EXPECTED, {"norm": 2.0}]
    assert thread is not threading.current_thread()
    assert device.waits == waits


def test_each_emission_has_copies_of_its_own(device: Device, bus: EventBus) -> None:
    seen: list[float] = []
    bus.on("batch_finished", background=True)(lambda loss: seen.append(loss.item()))
    loss = torch.zeros((), device=NAME)
    with device.holding():
        for step in (1, 2, 3):
            bus.emit("batch_finished", epoch=1, step=step, loss=loss)
            loss += 1
        assert device.is_waited_for()
    settle(bus)
    assert seen == [0.0, 1.0, 2.0]


def test_copies_on_a_stream_of_ones_own_are_waited_for(device: Device, bus: EventBus) -> None:
    seen, fields = hear(bus), fields_on(NAME)
    before = torch.accelerator.current_stream()
    torch.accelerator.set_stream(torch.Stream(NAME))
    try:
        with device.holding():
            bus.emit("batch_finished", epoch=1, step=1, **fields)
            assert device.is_waited_for()
    finally:
        torch.accelerator.set_stream(before)
    settle(bus)
    assert seen[0][1:] == (0.5, EXPECTED, {"norm": 2.0})


def test_a_device_of_another_kind_is_waited_for(careless: Device) -> None:
    loss, copies = torch.full((3,), 2.0, device=NAME), Copies()
    with careless.holding(), pytest.raises(RuntimeError, match="a copy to the host synchronizes"):
        copies.of(loss)
    copied = copies.of(loss)
    copies.seal()
    copies.wait()
    assert copied.tolist() == [2.0, 2.0, 2.0]
