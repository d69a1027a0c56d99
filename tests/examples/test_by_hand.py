"""`by_hand.py` and `with_run.py`: both give the losses of the loop without a bus."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from types import ModuleType

import pytest
import torch
from torch.nn.functional import cross_entropy

from eventbus.handlers.csv_log import CSVLog

from .running import EXAMPLES, run_example

NAMES = ("by_hand", "with_run")
Rows = list[dict[str, object]]


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example's module: its data and its network."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "by_hand", raising=False)
    return import_module("by_hand")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Rows]]:
    """What each of the two printed and logged."""
    found = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        said = run_example(name, "--epochs", "25", "--run-dir", folder)
        found[name] = said, CSVLog.read(folder / "losses.csv")
    return found


def bare_losses(by_hand: ModuleType, steps: int) -> list[float]:
    """Train in the same way, without any bus."""
    losses: list[float] = []
    with torch.random.fork_rng():
        model, data = by_hand.disc()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        while len(losses) < steps:
            for points, labels in data:
                loss = cross_entropy(model(points), labels)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_the_losses_are_those_without_a_bus(
    trained: dict[str, tuple[str, Rows]], by_hand: ModuleType, name: str
) -> None:
    _, rows = trained[name]
    assert [row["loss"] for row in rows] == bare_losses(by_hand, len(rows))
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))


def test_both_print_the_same_epochs(trained: dict[str, tuple[str, Rows]]) -> None:
    pattern = re.compile(r"^epoch.*done  loss [\d.]+", re.MULTILINE)
    ours, theirs = (pattern.findall(trained[name][0]) for name in NAMES)
    assert ours == theirs
    assert len(ours) > 5


@pytest.mark.parametrize("name", NAMES)
def test_a_handler_ends_the_run(trained: dict[str, tuple[str, Rows]], name: str) -> None:
    said, rows = trained[name]
    assert said.startswith("run started: 25 epochs\n")
    assert "stop requested by good_enough: the loss is below 0.1\nrun finished after" in said
    assert rows[-1]["epoch"] != 25
