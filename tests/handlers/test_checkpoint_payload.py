"""What may be in a checkpoint: exactly what the safe loader gives back (T09)."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import io
import pathlib
import types
from typing import Any, BinaryIO, NamedTuple

import numpy
import pytest
import torch

from eventbus.handlers._checkpoint_payload import offender, read_payload, summed, write_payload
from eventbus.handlers._files import Files


class Colour(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int


class OwnDict(dict[str, int]):
    pass


def saved_and_loaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save({"value": value}, file)
    file.seek(0)
    return read_payload(file)["value"]


def marked_tensor(mark: Any) -> torch.Tensor:
    tensor = torch.ones(2)
    tensor.mark = mark  # type: ignore[attr-defined]  # that is the point: pickle keeps attributes
    return tensor


LOADABLE = {
    "none": None,
    "bool": True,
    "nan": float("nan"),
    "wide int": 2**70,
    "negative wide int": -(2**2000),
    "complex": 1j,
    "text": "µ",
    "bytes": b"\0",
    "bytearray": bytearray(b"x"),
    "containers": {"a": [1, (2.0, {3})], 4: {}},
    "tuple as key": {(1, "a"): 2},
    "ordered": collections.OrderedDict(a=1),
    "counter": collections.Counter("aab"),
    "tensor": torch.ones(2),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "buffer": torch.nn.Buffer(torch.ones(2)),
    "tensor with a plain attribute": marked_tensor(3),
    "size": torch.Size([1]),
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "module state": torch.nn.Linear(2, 2).state_dict(),
    "generator state": torch.get_rng_state(),
}

REFUSED = {
    "very wide int": 2**5000,
    "numpy scalar": numpy.float64(1.0),
    "numpy array": numpy.ones(2),
    "path": pathlib.PurePosixPath("a"),
    "enum": Colour.RED,
    "named tuple": Point(1),
    "own dict": OwnDict(a=1),
    "frozen set": frozenset([1]),
    "default dict": collections.defaultdict(int),
    "deque": collections.deque([1]),
    "decimal": decimal.Decimal(1),
    "date": datetime.date(2020, 1, 1),
    "namespace": types.SimpleNamespace(a=1),
    "range": range(3),
    "slice": slice(3),
    "class": int,
    "function": print,
    "lambda": lambda: None,
    "module": torch.nn.Linear(1, 1),
    "generator": torch.Generator(),
    "tensor with such an attribute": marked_tensor(Colour.RED),
    "such a key": {Colour.RED: 1},
}


@pytest.mark.parametrize("name", LOADABLE)
def test_payload_takes_what_the_safe_loader_gives_back(name: str) -> None:
    assert offender({"value": LOADABLE[name]}) is None
    saved_and_loaded(LOADABLE[name])


@pytest.mark.parametrize("name", REFUSED)
def test_payload_refuses_what_the_safe_loader_refuses(name: str) -> None:
    assert offender({"value": REFUSED[name]}) is not None
    with pytest.raises(Exception, match=r"."):
        saved_and_loaded(REFUSED[name])


def test_offender_is_named_by_its_dotted_path() -> None:
    state = {"optimizer": {"groups": [{"lr": 0.1}, {"lr": numpy.float64(0.1)}]}}
    assert offender(state) == "optimizer.groups.1.lr is a numpy.float64"


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize(
    "odd", [numpy.int64(1), Colour.RED, 2**5000, OwnDict()], ids=["numpy", "enum", "wide", "dict"]
)
def test_offender_is_named_within_many_numbers(kind: type[Any], odd: Any) -> None:
    state = {"random": {"words": kind([*range(600), odd, *range(24)])}}
    assert str(offender(state)).startswith("random.words.600 is a ")


def test_offender_is_named_after_containers_of_numbers() -> None:
    state = {"a": [1, [2, 3.0, "x", None]], "b": [[1, True], [2, {"c": Colour.RED}]]}
    assert offender(state) == f"b.1.1.c is a {__name__}.Colour"


def test_offender_is_found_among_the_keys() -> None:
    assert offender({"a": {Colour.RED: 1}}) is not None
    assert "<key" in str(offender({"a": {Colour.RED: 1}}))


def test_state_may_contain_itself() -> None:
    state: dict[str, Any] = {"a": 1}
    state["self"] = state
    assert offender(state) is None


def test_offender_never_calls_into_the_object() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            raise AssertionError("it was pickled")

    assert "Trap" in str(offender({"trap": Trap()}))


def test_sum_while_writing_is_the_sum_of_the_file(tmp_path: pathlib.Path) -> None:
    path, files = tmp_path / "state.pt", Files()
    with files.create(path) as file:
        written = write_payload(files, file, {"weights": torch.arange(10_000)})
    with files.open(path) as file:
        assert summed(file) == written
    assert written.bytes == path.stat().st_size


class FullDisk(Files):
    """A disk that is full after a number of bytes."""

    def __init__(self, capacity: int, error: BaseException) -> None:
        self.left, self.error = capacity, error

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        self.left -= len(data)
        if self.left < 0:
            raise self.error
        super().write(file, data)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_writing_raises_what_the_disk_said(tmp_path: pathlib.Path, error: BaseException) -> None:
    files = FullDisk(1000, error)
    with files.create(tmp_path / "state.pt") as file, pytest.raises(type(error)) as caught:
        write_payload(files, file, {"weights": torch.arange(10_000)})
    assert caught.value is error


def test_payload_that_is_no_dict_is_refused() -> None:
    file = io.BytesIO()
    torch.save([1, 2], file)
    file.seek(0)
    with pytest.raises(ValueError, match="holds a list"):
        read_payload(file)
