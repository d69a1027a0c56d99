"""Weights out of a checkpoint: as a state dict, and as safetensors."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eventbus import EventBus
from eventbus.handlers import EMA, Checkpoint
from eventbus.handlers._checkpoint_files import Folder
from eventbus.handlers._files import Files
from eventbus.handlers.checkpoint import CheckpointError
from eventbus.loops import Run

from .hand_loop import train
from .saving import draft


def trained(directory: Path, model: torch.nn.Module) -> Path:
    bus, checkpoint = EventBus(), Checkpoint(directory)
    bus.attach(checkpoint)
    with Run(bus, model=model) as run:
        for _epoch in run.epochs(1):
            for _batch in run.batches([1]):
                run.report(loss=1.0)
    assert checkpoint.last_path is not None
    return checkpoint.last_path


class Tied(torch.nn.Module):
    """A model whose two layers share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 3)
        self.second = torch.nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_weights_load_into_a_model(tmp_path: Path) -> None:
    model, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    trained(tmp_path, model)
    other.load_state_dict(Checkpoint.weights(tmp_path))
    assert torch.equal(other.weight, model.weight)


def test_weights_of_another_part_are_asked_for_by_its_key(tmp_path: Path) -> None:
    checkpoint = train(tmp_path)
    assert checkpoint.last_path is not None
    assert Checkpoint.weights(checkpoint.last_path, "loop") == {"epoch": 5}


def test_part_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"no part 'models\.a'; it has: Checkpoint, loop, mod"
    ):
        Checkpoint.weights(tmp_path, "models.a")


def test_export_is_read_by_safetensors(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors")
    torch_side = pytest.importorskip("safetensors.torch")
    model, other = Tied(), Tied()
    trained(tmp_path / "run", model)
    target = tmp_path / "weights.safetensors"
    target.write_text("an older export")
    Checkpoint.export(tmp_path / "run", target)
    other.load_state_dict(torch_side.load_file(target))
    assert torch.equal(other.second.weight, model.first.weight)
    assert torch.equal(other.second.bias, model.second.bias)
    with library.safe_open(target, "pt") as file:
        assert file.metadata()["step"] == "1"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run", "weights.safetensors"]


def averaging(directory: Path, model: torch.nn.Module) -> Path:
    """Train with an average of the weights, which stays behind them."""
    bus, checkpoint = EventBus(), Checkpoint(directory)
    bus.attach(EMA(0.5))
    bus.attach(checkpoint)
    with Run(bus, model=model) as run:
        for _epoch in run.epochs(1):
            for _batch in run.batches([1, 2]):
                with torch.no_grad():
                    for weight in model.parameters():
                        weight.add_(1)
                run.report(loss=1.0)
    assert checkpoint.last_path is not None
    return checkpoint.last_path


def test_average_loads_into_a_plain_model(tmp_path: Path) -> None:
    model, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    path = averaging(tmp_path, model)
    other.load_state_dict(Checkpoint.weights(path, "EMA.averaged"))
    assert torch.allclose(other.weight, model.weight - 0.5)
    assert "module.weight" in Checkpoint.weights(path, "EMA")["averaged"]


def test_average_is_exported_under_the_names_of_the_model(tmp_path: Path) -> None:
    torch_side = pytest.importorskip("safetensors.torch")
    model, other = Tied(), Tied()
    path = averaging(tmp_path / "run", model)
    with pytest.raises(CheckpointError, match=r"not a tensor but dict: write part='EMA\.averaged'"):
        Checkpoint.export(path, tmp_path / "weights", part="EMA")
    Checkpoint.export(path, tmp_path / "weights", part="EMA.averaged")
    other.load_state_dict(torch_side.load_file(tmp_path / "weights"))
    assert torch.allclose(other.second.weight, model.first.weight - 0.5)


def test_average_is_listed_where_it_was_asked_for_by_another_name(tmp_path: Path) -> None:
    path = averaging(tmp_path, torch.nn.Linear(2, 1))
    for part in ("averaged", "EMA.average", "EMA.averaged.module", "EMA.updates.count", "EMA."):
        with pytest.raises(CheckpointError, match=f"no part '{part}'; it has: .*EMA, EMA.averaged"):
            Checkpoint.weights(path, part)


def test_names_within_a_part_may_have_dots(tmp_path: Path) -> None:
    weights = {"module.weight": torch.ones(1)}
    state = {"models.a": {"inner.one": weights, "n_averaged": 1}, "models": {"a": {"b": 2}}}
    Folder(tmp_path, Files()).commit(draft(1), state)
    assert Checkpoint.weights(tmp_path, "models.a.inner.one") == weights
    assert Checkpoint.weights(tmp_path, "models.a") == state["models.a"]
    assert Checkpoint.weights(tmp_path, "models.a.b") == 2


@pytest.mark.parametrize("weights", [{"a": 1}, {"inner": {"a": torch.ones(1)}}, [1]])
def test_export_of_what_are_no_tensors_is_refused(tmp_path: Path, weights: object) -> None:
    pytest.importorskip("safetensors.torch")
    Folder(tmp_path / "run", Files()).commit(draft(1), {"model": weights})
    with pytest.raises(CheckpointError, match=r"not a tensor|not tensors by name"):
        Checkpoint.export(tmp_path / "run", tmp_path / "weights.safetensors")
    assert not (tmp_path / "weights.safetensors").exists()


def test_export_without_the_library_is_one_line_that_names_the_extra(tmp_path: Path) -> None:
    path = trained(tmp_path / "run", torch.nn.Linear(1, 1))
    code = (
        "import sys; sys.modules['safetensors'] = None\n"
        "from eventbus.handlers import Checkpoint\n"
        f"try: Checkpoint.export({str(path)!r}, 'weights.safetensors')\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line = "Checkpoint.export needs safetensors: pip install 'training-eventbus[safetensors]'\n"
    assert done.stdout == line


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("none", "there is no directory .*none"),
        ("file", "file is a file: give the directory of a checkpoint, or a directory of them"),
        ("latest", "latest is a file: give the directory of a checkpoint"),
        ("step-00000050-0005/state.pt", "state.pt is a file: write .*step-00000050-0005, or"),
    ],
)
def test_path_that_is_no_directory_is_told_what_to_give_instead(
    where: str, said: str, tmp_path: Path
) -> None:
    train(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=said):
        Checkpoint.load(tmp_path / where)


def test_listing_a_file_says_what_to_give_and_a_missing_directory_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file is a file: give the directory"):
        Checkpoint.saved(tmp_path / "file")
    assert Checkpoint.saved(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (".", "is a directory: give the name of a file"),
        ("none/model.safetensors", "there is no directory .*none for .*model.safetensors"),
    ],
)
def test_export_to_what_cannot_be_a_file_is_refused(target: str, said: str, tmp_path: Path) -> None:
    path = trained(tmp_path / "run", torch.nn.Linear(2, 1))
    with pytest.raises(CheckpointError, match=said):
        Checkpoint.export(path, tmp_path / target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_export_that_the_disk_refuses_names_the_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Files, file: object) -> None:
        raise OSError(28, "No space left on device")

    path = trained(tmp_path / "run", torch.nn.Linear(2, 1))
    monkeypatch.setattr(Files, "fsync", refuse)
    with pytest.raises(CheckpointError, match=r"model is not written: No space left on device"):
        Checkpoint.export(path, tmp_path / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_what_is_wrong_with_a_checkpoint_comes_out_of_another_process(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(tmp_path / "none")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert (again.path, again.damaged) == (str(tmp_path / "none"), False)
