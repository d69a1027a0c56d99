"""The loop with a Run around it trains bit by bit as the bare loop does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from eventbus import EventBus
from eventbus.loops import Run

EPOCHS = 3


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(22, 4, generator=generator)
    return TensorDataset(inputs, torch.randint(3, (22,), generator=generator))


class Stream(IterableDataset[Any]):
    """Data without a length, shuffled by the global generator."""

    def __iter__(self) -> Any:
        dataset = data()
        return iter([dataset[place] for place in torch.randperm(len(dataset)).tolist()])


def loader(kind: str) -> DataLoader[Any]:
    if kind == "stream":
        return DataLoader(Stream(), batch_size=5)
    workers = 2 if kind == "workers" else 0
    return DataLoader(data(), batch_size=5, shuffle=True, num_workers=workers)


def model_and_optimizer() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def train_bare(kind: str, accumulate: int) -> list[float]:
    model, optimizer = model_and_optimizer()
    batches = loader(kind)
    losses = []
    for _ in range(EPOCHS):
        for place, (x, y) in enumerate(batches, start=1):
            loss = functional.cross_entropy(model(x), y)
            (loss / accumulate).backward()  # type: ignore[no-untyped-call]  # torch's
            if place % accumulate == 0 or place == 5:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    return [*losses, *flattened(model)]


def train_with_run(bus: EventBus, kind: str, accumulate: int) -> list[float]:
    model, optimizer = model_and_optimizer()
    batches = loader(kind)
    losses = []
    with Run(bus, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(EPOCHS):
            for x, y in run.batches(batches, accumulate=accumulate):
                outputs = model(x)
                loss = functional.cross_entropy(outputs, y)
                (loss / accumulate).backward()  # type: ignore[no-untyped-call]  # torch's
                if run.boundary:
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.item())
                run.report(loss=loss, outputs=outputs, targets=y)
    return [*losses, *flattened(model)]


def flattened(model: nn.Module) -> list[float]:
    tensors: Iterable[Tensor] = model.state_dict().values()
    return [value for tensor in tensors for value in tensor.double().flatten().tolist()]


@pytest.mark.parametrize("kind", ["plain", "stream", "workers"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_changes_no_bit_of_the_training(kind: str, accumulate: int) -> None:
    expected = train_bare(kind, accumulate)
    assert train_with_run(EventBus(), kind, accumulate) == expected


def test_a_run_that_is_read_at_every_signal_changes_no_bit_either() -> None:
    bus = EventBus()
    read: list[Any] = []

    @bus.on("*")
    def read_all(event: Any) -> None:
        read.append(dict(event.fields.get("metrics") or {}))

    assert train_with_run(bus, "plain", 2) == train_bare("plain", 2)
    assert any(read)


def test_a_run_keeps_no_graph_alive() -> None:
    bus = EventBus()
    model, _ = model_and_optimizer()
    of_others = _tensors_with_graph()
    with Run(bus, model=model) as run:
        for x, y in run.batches(loader("plain")):
            outputs = model(x)
            run.report(loss=functional.cross_entropy(outputs, y), outputs=outputs)
            del outputs
            graph = [one for one in _tensors_with_graph() if not held(one, of_others)]
            assert [one for one in graph if one.shape == (len(x), 3)] == []


def held(tensor: Tensor, tensors: list[Tensor]) -> bool:
    return any(one is tensor for one in tensors)


def _tensors_with_graph() -> list[Tensor]:
    import gc

    found = [one for one in gc.get_objects() if type(one) is Tensor]
    return [one for one in found if one.grad_fn is not None]
