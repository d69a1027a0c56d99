"""What handlers take alike: paths, and signals by name or declaration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.handlers import (
    Checkpoint,
    CSVLog,
    EarlyStopping,
    History,
    JSONLLog,
    NonFiniteGuard,
    Plot,
    TensorBoard,
)
from eventbus.signals import epoch_finished


@pytest.mark.parametrize("make", [CSVLog, JSONLLog, Plot, TensorBoard, Checkpoint])
@pytest.mark.parametrize("path", [5, None, b"log"])
def test_what_is_no_path_is_refused_in_a_line(make: Callable[[Any], object], path: Any) -> None:
    if make is Plot:
        pytest.importorskip("matplotlib")
    if make is TensorBoard:
        pytest.importorskip("tensorboard")
    with pytest.raises(TypeError) as caught:
        make(path)
    name = getattr(make, "__name__", "")
    told = f"{name} takes a path, a string or a pathlib.Path; got {path!r}"
    assert str(caught.value) == told


MAKE: list[Callable[[Any], object]] = [
    lambda on: History(on=on),
    lambda on: EarlyStopping(on=on),
    lambda on: NonFiniteGuard(on=on),
    lambda on: Checkpoint("checkpoints", on=on),
    lambda on: CSVLog("log.csv", on=on),
]


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("on", [5, [5], ["epoch_finished", None], [""]])
def test_what_names_no_signal_is_refused_in_a_line(make: Callable[[Any], object], on: Any) -> None:
    with pytest.raises(TypeError) as caught:
        make(on)
    assert str(caught.value) == f"on= takes the name of a signal, or several; got {on!r}"


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("on", [epoch_finished, [epoch_finished], ("epoch_finished",)])
def test_a_signal_may_be_given_by_its_declaration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], object], on: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    bus = EventBus(strict=True)
    bus.attach(make(on))
    assert "epoch_finished" in {name for one in bus.subscriptions for name in one.signals}
