"""An asynchronous checkpoint of what lives on the device: the loop goes on, the file is right."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import nn

from eventbus import EventBus, Priority, State
from eventbus.handlers import Checkpoint
from eventbus.handlers._checkpoint_snapshot import Buffers
from eventbus.handlers._files import Files
from eventbus.loops import Run
from tests.handlers.test_every_handler import same

from .device import NAME, PATIENCE_S, Device


class Tied(nn.Module):
    """Two layers of one weight, and a buffer that is a part of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("whole", torch.arange(8.0))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.second(self.first(inputs))
        return outputs + self.get_buffer("part").sum()


def model_on_device() -> Tied:
    model = Tied().to(NAME)  # tied there: on the way each would become one of its own
    model.second.weight = model.first.weight
    model.register_buffer("part", model.get_buffer("whole")[2:4])
    return model


class Training:
    """Trains on the device, and notes what its state is whenever an epoch is done.

    From the end of the first epoch to that of the body of the second all copies are held back.
    """

    def __init__(self, device: Device, bus: EventBus) -> None:
        self.device = device
        self.model = model_on_device()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9)
        self.states: list[dict[str, Any]] = []
        self.waits = self.copies = 0
        bus.on("epoch_finished", priority=Priority.PERSIST + 1)(self.note)
        bus.on("epoch_finished", priority=Priority.PERSIST - 1)(self.count)

    def note(self, epoch: int, metrics: dict[str, float]) -> None:
        """Read what the host may know; then hold all copies back."""
        assert dict(metrics)["loss"]
        self.states.append(on_host([self.model.state_dict(), self.optimizer.state_dict()]))
        self.waits, self.copies = self.device.waits, self.device.copies
        if epoch == 1:
            self.device._ops.hold()

    def count(self) -> None:
        assert self.device.waits == self.waits
        self.copies = self.device.copies - self.copies

    def run(self, bus: EventBus, epochs: int = 2) -> None:
        batches = list(torch.rand(3, 2, 4).to(NAME))
        with Run(bus, model=self.model, optimizer=self.optimizer) as run:
            for epoch in run.epochs(epochs):
                for batch in run.batches(batches):
                    self.step(run, batch)
                if epoch == 2:
                    self.let_go()

    def step(self, run: Run, batch: torch.Tensor) -> None:
        loss = self.model(batch).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.get_buffer("whole").add_(1)
        run.report(loss=loss)

    def let_go(self) -> None:
        assert self.device.under_way == self.copies > 0
        assert self.device.waits == self.waits
        assert self.device.is_waited_for()
        self.device.let_go()


def on_host(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.cpu().clone()
    if isinstance(state, dict):
        return {key: on_host(part) for key, part in state.items()}
    return [on_host(part) for part in state] if isinstance(state, list) else state


@pytest.fixture
def trained(device: Device, bus: EventBus, tmp_path: Path) -> Training:
    torch.manual_seed(0)
    bus.attach(Checkpoint(tmp_path, asynchronous=True, keep=None, best=None))
    training = Training(device, bus)
    training.run(bus, epochs=3)
    return training


def saved(folder: Path) -> Iterator[dict[str, Any]]:
    for one in Checkpoint.saved(folder):
        yield dict(Checkpoint.load(one.path))


def test_file_holds_the_state_of_the_save_though_training_went_on(
    trained: Training, tmp_path: Path
) -> None:
    files = [[state["model"], state["optimizer"]] for state in saved(tmp_path)]
    assert len(files) == len(trained.states) == 3
    for file, state in zip(files, trained.states, strict=True):
        assert same(file, state)
    assert not same(files[0], files[1])


def test_what_shares_a_storage_on_the_device_is_copied_once_and_shares_one_in_the_file(
    trained: Training, tmp_path: Path
) -> None:
    for state in saved(tmp_path):
        model = state["model"]
        places = {name: tensor.untyped_storage().data_ptr() for name, tensor in model.items()}
        assert places["first.weight"] == places["second.weight"]
        assert places["whole"] == places["part"]
        assert model["part"].storage_offset() == 2
    assert trained.copies == 4 + 3 + 1  # of the model; momenta; what the loss adds up to


def test_run_goes_on_from_the_file_on_the_device(
    trained: Training, device: Device, tmp_path: Path
) -> None:
    bus = EventBus(strict=True)
    bus.attach(Checkpoint(tmp_path, asynchronous=True, resume="auto"))
    resumed = Training(device, bus)
    with Run(bus, model=resumed.model, optimizer=resumed.optimizer) as run:
        assert run.epoch == 3
        found = on_host([resumed.model.state_dict(), resumed.optimizer.state_dict()])
    assert resumed.model.first.weight.device.type == NAME
    assert same(found, trained.states[-1])


def test_save_waits_once_for_metrics_that_nobody_has_read(
    device: Device, bus: EventBus, tmp_path: Path
) -> None:
    bus.attach(Checkpoint(tmp_path, asynchronous=True, on="batch_finished"))
    waits: list[int] = []
    for priority in (Priority.PERSIST + 1, Priority.PERSIST - 1):
        bus.on("batch_finished", priority=priority)(lambda: waits.append(device.waits))
    losses = torch.ones(2, 3).to(NAME)
    with Run(bus, model=model_on_device()) as run:
        for _ in run.batches([0]):
            run.report(loss=losses.mean(), norm=losses.sum())
    assert waits[1] == waits[0] + 1


class SlowDisk(Files):
    """A disk that writes nothing before it is let go, and notes what is copied meanwhile."""

    def __init__(self, device: Device) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        self.copies: list[int] = []
        self._device = device

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        self.began.set()
        assert self.go.wait(PATIENCE_S)
        super().write(file, data)
        self.copies.append(self._device.copies)


def test_next_save_uses_the_memory_again_once_the_one_before_is_written(
    device: Device, bus: EventBus, tmp_path: Path
) -> None:
    weight = torch.zeros(1000, device=NAME)
    checkpoint = Checkpoint(tmp_path, asynchronous=True, keep=None, best=None)
    checkpoint.files = disk = SlowDisk(device)
    bus.attach(checkpoint)
    bus.on("state_requested")(lambda: State("model", {"weight": weight}))
    loop, before = bus.bind(sender="train"), device.copies
    loop.emit("epoch_finished", epoch=1, step=1, metrics={})
    assert disk.began.wait(PATIENCE_S)
    weight.add_(1)
    letting_go = threading.Timer(0.05, disk.go.set)
    letting_go.start()
    loop.emit("epoch_finished", epoch=2, step=2, metrics={})  # waits for the first
    loop.emit("run_closed", outcome="completed")
    letting_go.join()
    first, second = saved(tmp_path)
    assert first["model"]["weight"].unique().tolist() == [0.0]
    assert second["model"]["weight"].unique().tolist() == [1.0]
    assert sorted(set(disk.copies)) == [before + 1, before + 2]


def test_end_of_the_run_waits_for_copies_that_are_on_their_way(
    device: Device, bus: EventBus, tmp_path: Path
) -> None:
    weight = torch.ones(3, device=NAME)
    bus.attach(Checkpoint(tmp_path, asynchronous=True, best=None))
    bus.on("state_requested")(lambda: State("model", {"weight": weight}))
    loop = bus.bind(sender="train")
    with device.holding():
        loop.emit("epoch_finished", epoch=1, step=1, metrics={})
        weight.zero_()
        assert device.is_waited_for()
        assert list(saved(tmp_path)) == []
        letting_go = threading.Timer(0.05, device.let_go)
        letting_go.start()
        loop.emit("run_closed", outcome="completed")
        assert [state["model"]["weight"].tolist() for state in saved(tmp_path)] == [[1.0] * 3]
        letting_go.join()


def test_memory_of_snapshots_is_pinned_and_used_again(device: Device) -> None:
    buffers, state = Buffers(), {"a": torch.ones(5, device=NAME), "b": torch.ones(5, device=NAME)}
    places = []
    for _ in range(3):
        copied = buffers.copy(state).wait().values()
        assert all(tensor.is_pinned() for tensor in copied)
        places.append({tensor.data_ptr() for tensor in copied})
    assert places[0] == places[1] == places[2]


def test_parts_of_two_devices_are_both_waited_for(device: Device) -> None:
    state = {name: torch.ones(3, device=name) for name in (f"{NAME}:0", f"{NAME}:1")}
    with device.holding():
        snapshot = Buffers().copy(state)
        assert device.under_way == 2
    assert all(copy.tolist() == [1.0] * 3 for copy in snapshot.wait().values())


def test_a_device_of_another_kind_is_waited_for(careless: Device) -> None:
    state, buffers = {"weight": torch.ones(3, device=NAME)}, Buffers()
    with careless.holding(), pytest.raises(RuntimeError, match="a copy to the host synchronizes"):
        buffers.copy(state)
    assert buffers.copy(state).wait()["weight"].tolist() == [1.0, 1.0, 1.0]
