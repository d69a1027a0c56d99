"""The format on the disk: what was written once must load for ever (T29).

`data/format-1` was written by the first version of the format, and is never written anew.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.handlers._checkpoint_manifest import FORMAT, decode, encode
from eventbus.handlers.checkpoint import CheckpointError

STORED = Path(__file__).parent / "data"


def test_present_format_has_a_stored_fixture() -> None:
    assert (STORED / f"format-{FORMAT}").is_dir()


def test_stored_checkpoint_loads_as_it_was_written() -> None:
    state = Checkpoint.load(STORED / "format-1" / "step-00000030-0001")
    weight = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(state["model"]["weight"], weight)
    assert state["model"]["tied"].data_ptr() == state["model"]["weight"].data_ptr()
    assert state["model"]["half"].dtype is torch.bfloat16
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], weight / 7)
    assert state["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    assert state["loop"]["position"] == {"epoch": 0, "batch_index": 0}
    assert state["EarlyStopping"] == {"best": 0.5, "count": 1}
    assert state["numbers"] == [None, True, 2**70, math.inf, "µ", b"\0", {1, 2}]


def test_stored_manifests_are_read_whole() -> None:
    full, bare = Checkpoint.saved(STORED / "format-1")
    assert (full.manifest.epoch, full.manifest.step, full.manifest.run) == (3, 30, "train")
    assert full.manifest.metrics["val_loss"] == 0.5
    assert math.isnan(full.manifest.metrics["never"])
    assert full.manifest.best == {"metric": "val_loss", "mode": "min"}
    assert (bare.manifest.step, bare.manifest.best) == (None, None)


@pytest.mark.parametrize("name", ["step-00000030-0001", "step-00000000-0002"])
def test_stored_manifest_would_be_written_the_same_today(name: str) -> None:
    data = (STORED / "format-1" / name / "manifest.json").read_bytes()
    assert encode(decode(data)) == data


def test_stored_checkpoint_is_resumed_from(tmp_path: Path) -> None:
    shutil.copytree(STORED / "format-1" / "step-00000030-0001", tmp_path / "step-00000030-0001")
    assert Checkpoint.weights(tmp_path)["weight"].shape == (2, 3)
    taken: dict[str, Any] = {}
    bus = EventBus(strict=True)
    bus.attach(Checkpoint(tmp_path, resume=tmp_path))
    bus.on("state_restored")(lambda state: taken.update(model=state.take("model")))
    bus.bind(sender="train").emit("run_opened")
    assert torch.equal(taken["model"]["weight"], torch.arange(6.0).reshape(2, 3))


def test_checkpoint_of_a_format_to_come_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "step-00000030-0001"
    shutil.copytree(STORED / "format-1" / "step-00000030-0001", path)
    (saved,) = Checkpoint.saved(tmp_path)
    (path / "manifest.json").write_bytes(encode(replace(saved.manifest, format=FORMAT + 1)))
    with pytest.raises(CheckpointError, match=f"is of format {FORMAT + 1}, and this version reads"):
        Checkpoint.load(path)
