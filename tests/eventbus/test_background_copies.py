"""What a background handler is given: copies, made before the loop goes on."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from eventbus import Emitter, EventBus
from eventbus.copies import Copies

from .backends import PATIENCE_S, began, settle

Batch = namedtuple("Batch", ["x", "y"])


class FakeDevice(str):
    """A device of torch's, as its name."""

    __slots__ = ()

    @property
    def type(self) -> str:
        return self.partition(":")[0]


class FakeTensor:
    """Notes how it is copied; `.values` can be changed in place."""

    def __init__(self, values: list[float], *, device: str = "cpu") -> None:
        self.values = values
        self.device = FakeDevice(device)
        self.attached = True
        self.asked: dict[str, Any] = {}

    def detach(self) -> FakeTensor:
        same = FakeTensor(self.values, device=self.device)
        same.attached = False
        return same

    def to(self, device: str, **asked: Any) -> FakeTensor:
        copy = FakeTensor(list(self.values), device=device)
        copy.attached, copy.asked = self.attached, asked
        return copy

    def __float__(self) -> float:
        return self.values[0]


def copied(value: Any) -> Any:
    copies = Copies()
    copy = copies.of(value)
    copies.seal()
    copies.wait()
    return copy


def test_a_tensor_that_the_loop_changes_later_is_seen_as_it_was(
    bus: EventBus, loop: Emitter
) -> None:
    go, seen = threading.Event(), []

    def read(loss: FakeTensor) -> None:
        assert began(go)
        seen.append(loss.values)

    bus.on("batch_finished", background=True)(read)
    loss = FakeTensor([1.0])
    loop.emit("batch_finished", epoch=1, step=1, loss=loss)
    loss.values[0] = 2.0
    go.set()
    settle(bus)
    assert seen == [[1.0]]


def test_only_what_is_named_is_copied(bus: EventBus, loop: Emitter) -> None:
    class Uncopied(FakeTensor):
        def detach(self) -> FakeTensor:
            raise AssertionError("nobody asked for it")

    steps: list[int] = []
    bus.on("batch_finished", background=True)(lambda step: steps.append(step))
    loop.emit("batch_finished", epoch=1, step=1, batch=Uncopied([1.0]))
    settle(bus)
    assert steps == [1]


def test_nothing_is_copied_for_an_emission_that_is_not_due(bus: EventBus, loop: Emitter) -> None:
    seen: list[Any] = []
    bus.on("batch_finished", when=lambda step: step == 2, background=True)(
        lambda loss: seen.append(loss)
    )
    for step in (1, 2):
        loss = FakeTensor([1.0]) if step == 2 else pytest.fail
        loop.emit("batch_finished", epoch=1, step=step, loss=loss)
    settle(bus)
    assert len(seen) == 1


@pytest.mark.parametrize("device", ["cpu", "mps:0"])
def test_a_copy_is_detached_and_on_the_host(device: str) -> None:
    copy = copied(FakeTensor([1.0], device=device))
    assert (copy.attached, copy.device) == (False, "cpu")
    assert copy.asked == {"non_blocking": False, "copy": True}


def test_tensors_in_containers_are_copied() -> None:
    tensor = FakeTensor([1.0])
    nested = {"list": [tensor], "tuple": (tensor,), "named": Batch(tensor, 1), "number": 3}
    copy = copied(nested)
    tensor.values[0] = 2.0
    found = [copy["list"][0], copy["tuple"][0], copy["named"].x]
    assert [each.values for each in found] == [[1.0]] * 3
    assert (type(copy["named"]), copy["number"]) == (Batch, 3)


@pytest.mark.parametrize("kind", [dict, OrderedDict, UserDict, MappingProxyType])
def test_a_mapping_stays_of_its_kind(kind: Any) -> None:
    inner = {"x": FakeTensor([1.0])}
    copy = copied(kind(inner))
    inner["x"].values[0] = 2.0
    assert type(copy) is kind
    assert copy["x"].values == [1.0]


def test_what_is_neither_tensor_nor_container_is_handed_over_as_it_is() -> None:
    class Figure:
        """Somebody's own."""

    figure = Figure()
    assert copied([figure])[0] is figure


class LazyMetrics(Mapping[str, float]):
    """As loops send them: read late, and not by the bus."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = tensors

    def __getitem__(self, key: str) -> float:
        raise AssertionError("reading waits for the device")

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_metrics_are_copied_unread_and_read_as_floats() -> None:
    loss = FakeTensor([0.5])
    metrics = copied(LazyMetrics({"loss": loss, "lr": 0.1}))
    loss.values[0] = 1.0
    assert dict(metrics) == {"loss": 0.5, "lr": 0.1}
    assert len(metrics) == 2
    assert metrics.tensors["loss"].values == [0.5]
    with pytest.raises(KeyError):
        metrics["accuracy"]


def test_an_array_is_copied() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(2)
    copy = copied([array])[0]
    array[0] = 1.0
    assert copy.tolist() == [0.0, 0.0]


class FakeCuda:
    """The part of torch.cuda that copying asks for."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.arrived = threading.Event()

    def current_stream(self, device: str) -> Any:
        return SimpleNamespace(record_event=lambda: self._record(device))

    def _record(self, device: str) -> Any:
        self.log.append(("recorded", device, threading.current_thread()))
        return SimpleNamespace(synchronize=self._synchronize)

    def _synchronize(self) -> None:
        assert began(self.arrived)
        self.log.append(("waited", threading.current_thread()))


def test_the_loop_does_not_wait_for_a_copy_from_the_gpu(
    bus: EventBus, loop: Emitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, seen = FakeCuda(), []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    bus.on("batch_finished", background=True)(lambda loss, batch: seen.append((loss, batch)))
    loss, batch = FakeTensor([1.0], device="cuda:0"), [FakeTensor([2.0], device="cuda:0")]
    loop.emit("batch_finished", epoch=1, step=1, loss=loss, batch=batch)
    here = threading.current_thread()
    assert cuda.log == [("recorded", "cuda:0", here)]  # once, after both; nobody has waited yet
    assert seen == []
    cuda.arrived.set()
    settle(bus)
    (first, (second,)) = seen[0]
    assert first.asked == second.asked == {"non_blocking": True, "copy": True}
    assert cuda.log[1][0] == "waited"
    assert cuda.log[1][1] is not here


def test_tensors_of_torch_are_copied(bus: EventBus, loop: Emitter) -> None:
    torch = pytest.importorskip("torch")
    go, seen = threading.Event(), []

    def read(loss: Any, batch: Any) -> None:
        assert go.wait(PATIENCE_S)
        seen.append((loss.item(), loss.requires_grad, batch["x"].tolist()))

    bus.on("batch_finished", background=True)(read)
    loss = torch.ones((), requires_grad=True)
    batch = {"x": torch.zeros(2)}
    loop.emit("batch_finished", epoch=1, step=1, loss=loss, batch=batch)
    with torch.no_grad():
        loss.add_(1.0)
        batch["x"].add_(1.0)
    go.set()
    settle(bus)
    assert seen == [(1.0, False, [0.0, 0.0])]


def test_tensors_come_from_a_gpu_into_pinned_memory(bus: EventBus, loop: Emitter) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    seen: list[Any] = []
    bus.on("batch_finished", background=True)(
        lambda batch: seen.append((batch.is_pinned(), batch.sum().item()))
    )
    batch = torch.ones(2**24, device="cuda")
    loop.emit("batch_finished", epoch=1, step=1, batch=batch)
    batch.zero_()
    settle(bus)
    assert seen == [(True, 2.0**24)]


def test_what_a_handler_binds_by_a_default_is_its_own(bus: EventBus, loop: Emitter) -> None:
    rows: list[int] = []

    @bus.on("epoch_finished", background=True)
    def keep(epoch: int, rows: list[int] = rows) -> None:
        rows.append(epoch)

    loop.emit("epoch_finished", epoch=1, step=1)
    loop.emit("epoch_finished", epoch=2, step=2)
    settle(bus)
    assert rows == [1, 2]
