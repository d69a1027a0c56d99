"""A snapshot of state: equal, independent, and in memory that is used again."""

from __future__ import annotations

import io
from collections import Counter, OrderedDict
from typing import Any

import pytest
import torch

from eventbus.handlers._checkpoint_snapshot import Buffers

from .test_checkpoint_payload import LOADABLE
from .test_every_handler import same


def bytes_of(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@pytest.mark.parametrize("name", LOADABLE)
def test_copy_is_equal_in_kind_and_value(name: str) -> None:
    value = LOADABLE[name]
    copied = Buffers().copy({"value": value}).wait()["value"]
    assert type(copied) is type(value)
    assert same(copied, value) or value != value  # noqa: PLR0124 - NaN


@pytest.mark.parametrize("name", ["containers", "tensor", "half", "parameter", "module state"])
def test_file_of_the_copy_is_that_of_the_state(name: str) -> None:
    state = {"value": LOADABLE[name]}
    assert bytes_of(Buffers().copy(state).wait()) == bytes_of(state)


def test_copy_stays_while_the_state_goes_on() -> None:
    state: dict[str, Any] = {
        "weights": torch.ones(2),
        "list": [1, {"a": bytearray(b"x")}],
        "ordered": OrderedDict(a=[1]),
        "counter": Counter("a"),
    }
    copied = Buffers().copy(state).wait()
    state["weights"].zero_()
    state["list"][1]["a"].extend(b"y")
    state["list"].append(2)
    state["ordered"]["a"].append(2)
    state["counter"]["a"] += 1
    assert torch.equal(copied["weights"], torch.ones(2))
    assert copied["list"] == [1, {"a": bytearray(b"x")}]
    assert copied["ordered"] == {"a": [1]}
    assert copied["counter"] == {"a": 1}


def test_tied_tensors_stay_tied() -> None:
    whole = torch.arange(6.0)
    state = {"whole": whole, "part": whole[2:4], "again": whole, "turned": whole.view(2, 3).T}
    copied = Buffers().copy(state).wait()
    assert copied["again"] is copied["whole"]
    storages = {tensor.untyped_storage().data_ptr() for tensor in copied.values()}
    assert len(storages) == 1
    assert all(torch.equal(copied[name], state[name]) for name in state)
    assert copied["turned"].stride() == state["turned"].stride()


def test_views_of_foreign_memory_of_two_lengths_are_both_whole() -> None:
    memory = bytearray(range(16))
    long = torch.frombuffer(memory, dtype=torch.uint8)
    short = torch.frombuffer(memory, dtype=torch.uint8, count=4)
    copied = Buffers().copy({"short": short, "long": long}).wait()
    assert torch.equal(copied["long"], long)
    assert torch.equal(copied["short"], short)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2, 2).to_sparse(),
        torch.tensor([1 + 2j]).conj(),
        torch.empty(0, 3),
        torch.tensor(3),
    ],
    ids=["sparse", "conjugate", "empty", "scalar"],
)
def test_odd_tensors_are_copied_too(value: torch.Tensor) -> None:
    copied = Buffers().copy(value).wait()
    assert torch.equal(copied.to_dense(), value.to_dense())
    assert copied.shape == value.shape


def test_state_that_contains_itself_is_copied() -> None:
    state: dict[str, Any] = {"a": [1]}
    state["self"] = state
    state["a"].append(state["a"])
    copied = Buffers().copy(state).wait()
    assert copied["self"] is copied is not state
    assert copied["a"][1] is copied["a"]


def test_large_state_is_copied_to_the_last_byte() -> None:
    state = {"a": torch.arange(20_000_003), "b": torch.arange(5_000_001, dtype=torch.float64)}
    copied = Buffers().copy(state).wait()
    assert all(torch.equal(copied[name], state[name]) for name in state)


def test_next_snapshot_uses_the_same_memory() -> None:
    buffers, state = Buffers(), {"a": torch.ones(5), "b": torch.ones(5)}
    places = [
        {tensor.data_ptr() for tensor in buffers.copy(state).wait().values()} for _ in range(3)
    ]
    assert places[0] == places[1] == places[2]
    assert len(places[0]) == 2


def test_memory_that_is_needed_no_more_is_given_back() -> None:
    buffers = Buffers()
    buffers.copy({"a": torch.ones(5), "b": torch.ones(7)})
    buffers.copy({"a": torch.ones(5)})
    assert {size for size, _ in buffers._free} == {20}


@pytest.mark.gpu
def test_copy_from_the_device_waits_for_nothing_here() -> None:
    weight = torch.ones(1_000_000, device="cuda")
    buffers = Buffers()
    buffers.copy({"w": weight}).wait()  # the pinned memory is made
    torch.cuda.set_sync_debug_mode("error")
    try:
        snapshot = buffers.copy({"w": weight})
        weight.zero_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    copied = snapshot.wait()["w"]
    assert copied.is_pinned()
    assert torch.equal(copied, torch.ones(1_000_000))
