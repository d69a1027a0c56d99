"""A run's config as trackers file it, whatever it was given as."""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus.handlers._configs import flat_settings_of, settings_of


@dataclass(frozen=True, slots=True)
class Model:
    width: int = 64


@dataclass
class Config:
    lr: float = 0.1
    model: Model = field(default_factory=Model)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (None, {}),
        ({}, {}),
        ({"lr": 0.1, 3: "three"}, {"lr": 0.1, "3": "three"}),
        (Namespace(lr=0.1, _private=1), {"lr": 0.1}),
        (Config(), {"lr": 0.1, "model": {"width": 64}}),
        (Model(), {"width": 64}),
        ("digits", {"config": "digits"}),
        (
            {"data": Path("a"), "kinds": (torch.float32, None)},
            {"data": "a", "kinds": ["torch.float32", None]},
        ),
        ({"seed": 2**60, "on": True}, {"seed": str(2**60), "on": True}),
    ],
    ids=repr,
)
def test_settings_are_plain_whatever_the_config_is(config: Any, settings: dict[str, Any]) -> None:
    assert settings_of(config) == settings


def test_flat_settings_are_numbers_and_text_under_dotted_names() -> None:
    config = {"model": {"layers": [1, 2], "act": {"name": "gelu"}}, "amp": True, "clip": math.inf}
    assert flat_settings_of(config) == {
        "model.layers": "[1, 2]",
        "model.act.name": "gelu",
        "amp": True,
        "clip": math.inf,
    }


def test_what_is_too_long_for_a_setting_is_cut() -> None:
    settings = flat_settings_of({"data": list(range(10_000))})
    assert len(str(settings["data"])) == 201
