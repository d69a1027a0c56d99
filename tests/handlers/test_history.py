"""History: rows that belong together, tables, pictures, resuming."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eventbus import EventBus, every
from eventbus.handlers import History

from .reporting import finish_epochs, resume, start


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


@pytest.fixture
def history(bus: EventBus) -> History:
    history = History()
    bus.attach(history)
    return history


def test_each_metric_is_a_list_over_the_epochs(bus: EventBus, history: History) -> None:
    finish_epochs(start(bus), 1, 3)
    assert history["loss"] == [1.0, 0.5, 1 / 3]
    assert history.epochs == [1, 2, 3]
    assert history.steps == [10, 20, 30]
    assert list(history) == ["loss"]


def test_it_is_a_mapping_and_an_object_of_its_own(bus: EventBus, history: History) -> None:
    assert isinstance(history, Mapping)
    assert len(history) == 0
    finish_epochs(start(bus), 1, 2, val_loss=0.25)
    assert dict(history) == {"loss": [1.0, 0.5], "val_loss": [0.25, 0.25]}
    assert list(history.items()) == list(zip(history.keys(), history.values(), strict=True))
    assert history.get("accuracy") is None
    assert "loss" in history
    other = History()
    other.load_state_dict(history.state_dict())
    assert len({history, other}) == 2  # equal rows do not make them one handler


def test_an_absent_metric_is_nan_so_that_rows_stay_together(
    bus: EventBus, history: History
) -> None:
    loop = start(bus)
    finish_epochs(loop, 1, 1)
    finish_epochs(loop, 2, 2, val_loss=0.25)
    finish_epochs(loop, 3, 3)
    assert repr(history["val_loss"]) == "[nan, 0.25, nan]"


@given(
    rows=st.lists(st.dictionaries(st.sampled_from("abcd"), st.floats(allow_nan=False), max_size=4))
)
def test_rows_stay_together_whatever_comes_and_goes(rows: list[dict[str, float]]) -> None:
    bus, history = EventBus(strict=True), History()
    bus.attach(history)
    for epoch, metrics in enumerate(rows, start=1):
        bus.emit("epoch_finished", epoch=epoch, step=epoch, metrics=metrics)
    for name in history:
        column = dict(enumerate(history[name]))
        assert {i: value for i, value in column.items() if not math.isnan(value)} == {
            i: row[name] for i, row in enumerate(rows) if name in row
        }
        assert len(column) == len(rows) == len(history.epochs) == len(history.steps)


def test_a_metric_that_was_never_seen_is_named_with_those_that_were(
    bus: EventBus, history: History
) -> None:
    finish_epochs(start(bus), 1, 1)
    with pytest.raises(KeyError, match="no metric 'lss' in the history; there are: loss"):
        history["lss"]
    assert "loss" in history
    assert "lss" not in history


def test_steps_may_be_kept_in_place_of_epochs(bus: EventBus) -> None:
    history = History("batch_finished", when=every(2))
    bus.attach(history)
    loop = start(bus)
    for step in range(1, 6):
        metrics = {"loss": torch.tensor(float(step))}
        loop.emit("batch_finished", epoch=1, step=step, metrics=metrics)
    assert history["loss"] == [2.0, 4.0]
    assert history.steps == [2, 4]


def test_a_new_run_starts_a_new_history_and_a_resumed_one_goes_on(
    bus: EventBus, history: History
) -> None:
    finish_epochs(start(bus), 1, 2)
    state = dict(bus.emit("state_requested").state)
    finish_epochs(start(bus), 1, 1)
    assert history.epochs == [1]
    finish_epochs(resume(bus, state), 3, 3)
    assert history["loss"] == [1.0, 0.5, 1 / 3]
    assert history.epochs == [1, 2, 3]


def test_a_saved_state_does_not_change_afterwards(bus: EventBus, history: History) -> None:
    loop = start(bus)
    finish_epochs(loop, 1, 1)
    state = history.state_dict()
    finish_epochs(loop, 2, 2)
    assert state == {"epochs": [1], "steps": [10], "metrics": {"loss": [1.0]}}


def test_the_table_has_a_column_for_each_count_and_metric(bus: EventBus, history: History) -> None:
    pytest.importorskip("pandas")
    finish_epochs(start(bus), 1, 2, val_loss=0.5)
    table = history.to_dataframe()
    assert list(table.columns) == ["epoch", "step", "loss", "val_loss"]
    assert table.to_dict("list") == {
        "epoch": [1, 2],
        "step": [10, 20],
        "loss": [1.0, 0.5],
        "val_loss": [0.5, 0.5],
    }


@pytest.mark.parametrize(
    ("library", "extra", "ask"),
    [("pandas", "pandas", "to_dataframe"), ("matplotlib", "plot", "plot")],
)
def test_a_missing_library_is_one_line_that_names_the_extra(
    history: History, library: str, extra: str, ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(library, monkeypatch)
    with pytest.raises(ImportError) as caught:
        getattr(history, ask)()
    wanted = f"History.{ask} needs {library}: pip install 'training-eventbus[{extra}]'"
    assert str(caught.value) == wanted


def hide(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a library impossible to import, as where it is not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    found = sys.meta_path[:]

    class Hidden:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> None:
            if name.partition(".")[0] == library:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Hidden, *found])


def across(axes: Any) -> list[int]:
    """Where the points of the first curve are."""
    return list(axes.lines[0].get_xdata())


def test_the_figure_shows_each_metric_over_the_epochs(bus: EventBus, history: History) -> None:
    pytest.importorskip("matplotlib")
    finish_epochs(start(bus), 1, 3, val_loss=0.5, accuracy=math.nan)
    loss, accuracy = history.plot().axes
    assert [line.get_label() for line in loss.lines] == ["loss", "val_loss"]
    assert across(loss) == [1, 2, 3]
    assert across(accuracy) == []
    assert loss.get_xlabel() == "epoch"


def test_the_figure_is_over_steps_where_rows_share_an_epoch(bus: EventBus) -> None:
    pytest.importorskip("matplotlib")
    history = History("batch_finished")
    bus.attach(history)
    loop = start(bus)
    for step in (1, 2):
        loop.emit("batch_finished", epoch=1, step=step, metrics={"loss": 0.5})
    (axes,) = history.plot().axes
    assert across(axes) == [1, 2]
    assert axes.get_xlabel() == "step"


def test_an_empty_history_gives_an_empty_table_and_figure(history: History) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    assert len(history.to_dataframe()) == 0
    assert history.plot().axes == []


def test_drawing_leaves_pyplot_alone(bus: EventBus, history: History) -> None:
    pytest.importorskip("matplotlib")
    finish_epochs(start(bus), 1, 1)
    sys.modules.pop("matplotlib.pyplot", None)
    history.plot()
    assert "matplotlib.pyplot" not in sys.modules
