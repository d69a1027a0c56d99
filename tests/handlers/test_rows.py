"""What of an emission can go into a log."""

from __future__ import annotations

from enum import IntEnum
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from eventbus.handlers._rows import facts


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.array([7]), 7),
        (np.bool_(True), True),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor([[3]]), 3),
        (torch.tensor(0.25, requires_grad=True), 0.25),
        (Level.HIGH, 3),
        (True, True),
        (10**30, 10**30),
        (PurePosixPath("a/b"), "a/b"),
        (KeyError(), "KeyError"),
        (ValueError("bad"), "ValueError: bad"),
        ({1: np.float32(2)}, {"1": 2.0}),
        ((1, object(), "x"), [1, "x"]),
    ],
)
def test_a_fact_is_told_as_plain_python(value: Any, told: Any) -> None:
    ((_, plain),) = facts({"field": value})
    assert plain == told
    assert type(plain) is type(told)


@pytest.mark.parametrize(
    "value", [None, object(), torch.zeros(2), np.zeros(2), 1j, b"bytes", {1, 2}, print]
)
def test_what_is_no_number_and_no_text_is_left_out(value: Any) -> None:
    assert dict(facts({"field": value})) == {}


@pytest.mark.parametrize("name", ["batch", "outputs", "targets", "loader", "figure", "state"])
def test_data_is_left_out_even_where_it_is_plain(name: str) -> None:
    assert dict(facts({name: [1, 2], "epoch": 1})) == {"epoch": 1}
