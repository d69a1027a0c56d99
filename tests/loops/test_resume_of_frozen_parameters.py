"""A resumed run that trains other parameters than the run before it says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.handlers._checkpoint_files import Folder, load_newest
from eventbus.handlers._files import Files
from eventbus.loops import Run


class Cut(BaseException):
    """The process is gone: nothing after it is written."""


Body = Callable[[nn.Module, Any, int], object]
"""What an epoch begins with: of the first layer, the optimizer and the epoch."""


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="eventbus.loops")
    return caplog


def train(
    folder: Path,
    begin: Body,
    cut: int | None = None,
    on: str = "epoch_finished",
    *,
    groups: int = 2,
    steps: int = 2,
    free: Callable[[int], bool] | None = None,
) -> list[float]:
    """Train four epochs, of two layers of which the first is frozen; cut at a step.

    `free` says of each step whether that layer is trained in it.
    """
    torch.manual_seed(0)
    first, second = nn.Linear(2, 2), nn.Linear(2, 1)
    first.requires_grad_(False)
    model = nn.Sequential(first, second)
    layers = [{"params": one.parameters()} for one in (second, first)]
    optimizer = torch.optim.AdamW(layers[:groups], 0.01)
    bus = EventBus()
    bus.attach(Checkpoint(folder, on=on, best=None, resume="auto"))
    with Run(bus, model=model, optimizer=optimizer) as run:
        for epoch in run.epochs(4):
            begin(first, optimizer, epoch)
            for _ in run.batches(range(steps)):
                if run.step == cut:
                    raise Cut
                if free is not None:
                    first.requires_grad_(free(run.step))
                optimizer.zero_grad()
                loss = model(torch.ones(1, 2)).square().mean()
                loss.backward()
                optimizer.step()
                run.report(loss=loss)
    return torch.cat([one.detach().flatten() for one in model.parameters()]).tolist()


def free_at(layer: nn.Module, optimizer: Any, epoch: int) -> None:
    if epoch == 2:
        layer.requires_grad_(True)


def free_from(layer: nn.Module, optimizer: Any, epoch: int) -> None:
    if epoch >= 2:
        layer.requires_grad_(True)


def leave(layer: nn.Module, optimizer: Any, epoch: int) -> None: ...


def free_in_turns(layer: nn.Module, optimizer: Any, epoch: int) -> None:
    layer.requires_grad_(epoch % 2 == 0)


@pytest.mark.parametrize(("on", "cut"), [("epoch_finished", 5), ("batch_finished", 6)])
def test_a_layer_that_is_not_freed_again_is_told_of(
    on: str, cut: int, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Cut):
        train(tmp_path, free_at, cut, on)
    told.clear()
    train(tmp_path, free_at, on=on)
    (message,) = [text for text in told.messages if "read again" not in text]
    assert "'0.weight' and 1 more of 'model' trained when it was saved, frozen here" in message
    assert "`if epoch >= 3:`" in message


@pytest.mark.parametrize(
    ("begin", "cut"), [*((free_from, cut) for cut in (2, 3, 4, 5, 7)), (free_in_turns, 3)]
)
def test_a_layer_that_each_epoch_frees_or_not_is_trained_as_before(
    begin: Body, cut: int, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    whole = train(tmp_path / "whole", begin)
    with pytest.raises(Cut):
        train(tmp_path / "run", begin, cut)
    assert train(tmp_path / "run", begin) == whole
    assert told.messages == []


def is_even(step: int) -> bool:
    return step % 2 == 0


def is_odd(step: int) -> bool:
    return step % 2 == 1


def is_third(step: int) -> bool:
    return step % 3 == 0


def is_fourth(step: int) -> bool:
    return step % 4 == 0


IN_TURNS = [
    (is_even, 4, "batch_finished", [3]),
    (is_third, 4, "batch_finished", [4]),
    (is_odd, 3, "epoch_finished", [4]),
    (is_fourth, 4, "epoch_finished", [6]),
    (is_even, 4, "batch_finished", [4, 5]),
]


@pytest.mark.parametrize(("free", "steps", "on", "cuts"), IN_TURNS)
def test_a_layer_that_some_steps_of_an_epoch_train_is_not_told_of(
    free: Callable[[int], bool],
    steps: int,
    on: str,
    cuts: list[int],
    *,
    tmp_path: Path,
    told: pytest.LogCaptureFixture,
) -> None:
    for cut in cuts:
        with pytest.raises(Cut):
            train(tmp_path, leave, cut, on, steps=steps, free=free)
    train(tmp_path, leave, on=on, steps=steps, free=free)
    assert [text for text in told.messages if "read again" not in text] == []


def test_a_checkpoint_that_does_not_say_what_was_frozen_is_gone_on_from(
    tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Cut):
        train(tmp_path, free_at, 5)
    saves = Folder(tmp_path, Files())
    saved, state = load_newest(saves.path, saves.files)
    assert state["loop"].pop("frozen") == {"model": []}
    saves.commit(saved.manifest, state)
    train(tmp_path, free_at)
    assert told.messages == []


def test_an_optimizer_of_fewer_groups_than_were_saved_is_told_to_have_all_from_the_beginning(
    tmp_path: Path,
) -> None:
    def add(layer: nn.Module, optimizer: Any, epoch: int) -> None:
        if epoch == 2:
            optimizer.add_param_group({"params": layer.requires_grad_(True).parameters()})

    with pytest.raises(Cut):
        train(tmp_path, add, 5, groups=1)
    with pytest.raises(ValueError, match="parameter groups") as failed:
        train(tmp_path, add, groups=1)
    (note,) = [one for one in failed.value.__notes__ if "while restoring 'optimizer'" in one]
    assert "saved with 2 parameter groups, here 1: have all of them before the Run is" in note
