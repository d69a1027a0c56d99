"""Metrics that are NaN, infinite, huge, or no numbers at all, through whoever reads them (T16).

The bus is strict: an observer that failed on one would raise here, where it is isolated otherwise.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from eventbus import EventBus
from eventbus.handlers import (
    Checkpoint,
    ConsoleLog,
    CSVLog,
    EarlyStopping,
    History,
    JSONLLog,
    Notify,
    Plot,
    ProgressBar,
)

from .hand_loop import Training, sequence_of
from .postbox import POSTBOX, Postbox, open_postbox
from .reporting import Clock, start

NAN, INF = math.nan, math.inf

ODD: dict[str, tuple[Any, float | None]] = {
    "nan": (NAN, NAN),
    "infinity": (INF, INF),
    "minus infinity": (-INF, -INF),
    "minus zero": (-0.0, -0.0),
    "denormal": (5e-324, 5e-324),
    "huge": (10**400, INF),
    "minus huge": (-(10**400), -INF),
    "too long to print": (10**5000, INF),
    "bool": (True, 1.0),
    "0-d tensor": (torch.tensor(0.5), 0.5),
    "tensor of one element": (torch.tensor([[0.5]]), 0.5),
    "tensor with a gradient": (torch.tensor(0.5, requires_grad=True) * 1, 0.5),
    "half": (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    "nan on a tensor": (torch.tensor(NAN), NAN),
    "numpy float32": (np.float32(0.5), 0.5),
    "numpy float64": (np.float64(0.5), 0.5),
    "numpy int64": (np.int64(3), 3.0),
    "numpy bool": (np.bool_(True), 1.0),
    "0-d array": (np.array(0.5), 0.5),
    "complex": (0.5 + 1j, None),
    "complex tensor": (torch.tensor(0.5 + 1j), None),
    "numpy complex": (np.complex64(0.5 + 1j), None),
    "0-d array of complex": (np.array(0.5 + 0j), None),
    "none": (None, None),
    "text": ("text", None),
    "tensor of two elements": (torch.ones(2), None),
    "list": ([1.0], None),
}
"""By name: a metric, and the number that it is; None for no number."""

odd = pytest.mark.parametrize("name", ODD)


def tell(bus: EventBus, *values: Any) -> None:
    """Finish an epoch with each of the values as `val_loss`, and an ordinary loss beside it."""
    loop = start(bus, epochs=len(values))
    for epoch, value in enumerate(values, start=1):
        fields = {"epoch": epoch, "step": epoch, "metrics": {"loss": 0.25, "val_loss": value}}
        loop.emit("batch_finished", **fields)
        loop.emit("epoch_finished", **fields)
    metrics = {"loss": 0.25, "val_loss": values[-1]}
    loop.emit("run_finished", reason="completed", epoch=1, step=1, metrics=metrics)
    loop.emit("run_closed", outcome="completed")


def same(one: Any, other: Any) -> bool:
    """Compare numbers as they print: NaN is NaN, and minus zero is not zero."""
    return repr(float(one)) == repr(float(other))


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


# -- who decides by them

NUMBERS = [name for name, (_, number) in ODD.items() if number is not None]
sequences = st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=6)


def best_of(names: Sequence[str], better: Callable[..., float]) -> float | None:
    """Return the best finite number by looking at all of them."""
    return better(
        (ODD[name][1] for name in names if math.isfinite(ODD[name][1] or 0)), default=None
    )


@pytest.mark.parametrize(("mode", "better"), [("min", min), ("max", max)])
@given(names=sequences)
@example(names=["nan", "half", "nan", "denormal", "numpy int64"])
def test_best_is_the_best_finite_number_whatever_comes_between(
    mode: Any, better: Callable[..., float], names: list[str]
) -> None:
    bus, stopping = EventBus(strict=True), EarlyStopping(patience=None, stop_at=-9.0, mode=mode)
    bus.attach(stopping)
    for number, name in enumerate(names, start=1):
        metrics = {"val_loss": ODD[name][0]}
        counts = {"round": number, "epoch": number, "step": number}
        bus.emit("validation_done", name="val", **counts, metrics=metrics)
    assert stopping.best == best_of(names, better)
    assert stopping.observations == len(names)


@given(names=sequences)
@example(names=["nan", "half", "nan"])
def test_best_checkpoint_is_that_of_the_best_finite_number(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    bus, checkpoint = EventBus(strict=True), Checkpoint(tmp_path_factory.mktemp("run"), keep=1)
    bus.attach(checkpoint)
    Training(bus).run(len(names), sequence_of([ODD[name][0] for name in names]))
    best = best_of(names, min)
    if best is None:
        assert checkpoint.best_path is None
    else:
        assert checkpoint.best_path is not None
        there = {saved.path: saved for saved in Checkpoint.saved(checkpoint.directory)}
        assert there[checkpoint.best_path].manifest.metrics["val_loss"] == best


@pytest.mark.parametrize("name", [name for name in ODD if name not in NUMBERS])
def test_checkpoint_is_best_by_no_text_and_no_tensor(name: str, tmp_path: Path) -> None:
    bus, checkpoint = EventBus(strict=True), Checkpoint(tmp_path)
    bus.attach(checkpoint)
    metrics: dict[str, Any] = {"val_loss": ODD[name][0]}
    if name == "none":
        Training(bus).run(1, lambda epoch: metrics)
        assert checkpoint.best_path is None
    else:
        with pytest.raises(TypeError, match="Checkpoint: metric 'val_loss' must be a number"):
            Training(bus).run(1, lambda epoch: metrics)


# -- who keeps them


@odd
def test_history_keeps_the_number_or_nan(bus: EventBus, name: str) -> None:
    history = History()
    bus.attach(history)
    value, number = ODD[name]
    tell(bus, value, 0.5, value)
    kept = history["val_loss"]
    expected = NAN if number is None else number
    assert [same(*pair) for pair in zip(kept, [expected, 0.5, expected], strict=True)] == [True] * 3
    assert history["loss"] == [0.25] * 3
    assert history.epochs == [1, 2, 3]


@odd
def test_json_lines_are_json_whatever_the_metric(bus: EventBus, name: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    bus.attach(JSONLLog(path, on="epoch_finished"))
    value, number = ODD[name]
    tell(bus, value)
    (line,) = path.read_text().splitlines()
    json.loads(line, parse_constant=pytest.fail)
    (row,) = JSONLLog.read(path)
    told = row["metrics"].get("val_loss")
    if number is None:
        assert told in (None, value)
    else:
        assert same(told, number)


@odd
def test_csv_rows_stay_whole_whatever_the_metric(bus: EventBus, name: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    bus.attach(CSVLog(path))
    value, number = ODD[name]
    tell(bus, 0.5, value, 0.75)
    rows = CSVLog.read(path)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [rows[0]["val_loss"], rows[2]["val_loss"]] == [0.5, 0.75]
    if isinstance(value, bool | np.bool_):
        assert rows[1]["val_loss"] == "True"
    elif number is not None:
        assert same(rows[1]["val_loss"], number)


# -- who shows them


@odd
def test_console_prints_a_line_whatever_the_metric(bus: EventBus, name: str) -> None:
    stream = io.StringIO()
    bus.attach(ConsoleLog(stream=stream, monotonic=Clock()))
    tell(bus, ODD[name][0])
    (line,) = [line for line in stream.getvalue().splitlines() if "done" in line]
    assert "loss 0.25000" in line


@odd
def test_progress_bar_draws_whatever_the_metric(bus: EventBus, name: str) -> None:
    console = pytest.importorskip("rich.console")
    screen = io.StringIO()
    terminal = console.Console(file=screen, force_terminal=True, width=100)
    bus.attach(ProgressBar(console=terminal, monotonic=Clock()))
    tell(bus, ODD[name][0])
    assert "loss 0.25" in screen.getvalue()


@pytest.fixture
def postbox() -> Postbox:
    pytest.importorskip("apprise")
    return open_postbox()


@odd
@pytest.mark.parametrize("body", [None, "{metrics[loss]:.3f} {metrics[val_loss]:.3f}"])
def test_message_is_sent_whatever_the_metric(
    bus: EventBus, postbox: Postbox, name: str, body: str | None
) -> None:
    bus.attach(Notify(POSTBOX, body=body))
    tell(bus, ODD[name][0])
    (message,) = postbox.received
    assert "0.25" in message.body


@pytest.mark.parametrize("name", ["infinity", "too long to print", "none", "text"])
def test_plot_draws_whatever_the_metric(bus: EventBus, name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bus.attach(Plot(tmp_path / "curves.svg"))
    tell(bus, ODD[name][0], 0.5)
    assert "val_loss" in (tmp_path / "curves.svg").read_text()
