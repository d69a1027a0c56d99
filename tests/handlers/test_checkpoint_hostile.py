"""Files made to do harm: their sums are right, and still nothing of theirs is run (T28)."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.handlers._checkpoint_manifest import encode
from eventbus.handlers._checkpoint_payload import summed
from eventbus.handlers.checkpoint import CheckpointError

from .hand_loop import Training
from .saving import draft, state

NAME = "step-00000010-0001"


class Calls:
    """Calls something where it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


ATTACKS: dict[str, Callable[[str], Any]] = {
    "os.system": lambda marker: Calls(os.system, f"touch {marker}"),
    "eval": lambda marker: Calls(eval, f"open({marker!r}, 'w')"),
    "exec": lambda marker: Calls(exec, f"open({marker!r}, 'w')"),
    "open": lambda marker: Calls(open, marker, "w"),
    "torch.save": lambda marker: Calls(torch.save, 1, marker),
    "torch storage bytes": lambda marker: Calls(
        torch.storage._load_from_bytes, zipped(Calls(open, marker, "w"))
    ),
    "pickle in pickle": lambda marker: Calls(pickle.loads, pickle.dumps(Calls(open, marker, "w"))),
}

PLACES: dict[str, Callable[[Any], Any]] = {
    "all of it": lambda bad: bad,
    "a part": lambda bad: {"random": bad},
    "optimizer": lambda bad: {"optimizer": {"state": {0: {"step": [bad]}}}},
    "a key": lambda bad: {"model": {(bad,): 1}},
    "an attribute": lambda bad: {"model": _with_attribute(bad)},
}


def _with_attribute(bad: Any) -> torch.Tensor:
    tensor = torch.ones(1)
    tensor.bad = bad  # type: ignore[attr-defined]  # pickle keeps attributes
    return tensor


def zipped(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def plant(directory: Path, payload: bytes) -> Path:
    """Write a checkpoint whose sums are right and whose content is not ours."""
    path = directory / NAME
    path.mkdir(parents=True)
    (path / "state.pt").write_bytes(payload)
    sums = {"state.pt": summed(io.BytesIO(payload))}
    (path / "manifest.json").write_bytes(encode(draft(10, files=sums)))
    return path


@pytest.mark.parametrize("form", ["zip", "bare pickle", "old torch"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_file_is_called(tmp_path: Path, attack: str, place: str, form: str) -> None:
    marker = tmp_path / "marker"
    content = PLACES[place](ATTACKS[attack](str(marker)))
    if form == "old torch":
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=False)
        payload = file.getvalue()
    else:
        payload = zipped(content) if form == "zip" else pickle.dumps(content)
    path = plant(tmp_path / "run", payload)
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        Checkpoint.load(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_attacks_would_work_on_an_unsafe_loader(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    torch.load(io.BytesIO(zipped(ATTACKS["open"](str(marker)))), weights_only=False).close()
    assert marker.exists()


def test_hostile_checkpoint_is_passed_over_by_a_resuming_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    plant(tmp_path / "run", zipped({"model": Calls(open, str(marker), "w")}))
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "run", resume="auto"))
    assert Training(bus).run(1).resumed_from is None
    assert not marker.exists()
    assert (tmp_path / "run" / NAME).is_dir()  # it is what was written: not damaged, only refused


@pytest.mark.parametrize("name", ["../../escaped", "archive/../../escaped", "<here>/escaped"])
def test_names_in_an_archive_lead_nowhere(tmp_path: Path, name: str) -> None:
    file = io.BytesIO(zipped(state(10)))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name.replace("<here>", str(tmp_path)), "x")
    path = plant(tmp_path / "run", file.getvalue())
    before = sorted(tmp_path.rglob("*"))
    with contextlib.suppress(CheckpointError):  # some versions of torch refuse such an archive
        Checkpoint.load(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_names_in_the_state_are_never_imported(tmp_path: Path) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('it was imported')")
    names = {"evil_module.Handler": {"class": "evil_module.Handler"}, "__import__": "evil_module"}
    path = plant(tmp_path / "run", zipped(names))
    assert Checkpoint.load(path) == names
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path / "run", resume=path, at_end=False))
    training = Training(bus).run(0)
    assert training.resumed_from == str(path)


@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    path = plant(tmp_path / "run", zipped(state(10)))
    elsewhere = tmp_path / "elsewhere"
    (path / name).rename(elsewhere)
    (path / name).symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match="is not a regular file"):
        Checkpoint.load(path)


def test_linked_directory_is_verified_as_any_other(tmp_path: Path) -> None:
    path = plant(tmp_path / "elsewhere", zipped(state(10)))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).symlink_to(path)
    assert Checkpoint.load(tmp_path / "run")["loop"] == {"step": 10}
    (path / "state.pt").write_bytes(zipped(state(20)))
    with pytest.raises(CheckpointError, match="does not match its SHA-256"):
        Checkpoint.load(tmp_path / "run" / NAME)
