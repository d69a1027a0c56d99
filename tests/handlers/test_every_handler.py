"""One battery over every handler in the package, found by itself: a new one is in it unlisted.

Each takes part in short, seeded trainings by `Run`. The bus is strict, so that nothing hides behind
an isolated failure. An argument that has no default goes into `ARGUMENTS` in lives.py.
"""

from __future__ import annotations

import copy
import gc
import importlib
import io
import json
import math
import os
import pickle
import pkgutil
import re
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch

import eventbus.handlers
from eventbus import EventBus, Priority
from eventbus.loops import Run
from eventbus.state import has_state

from .lives import (
    Nursery,
    assert_ends_as_whole,
    images,
    live,
    make,
    trained_by,
    with_handler,
)

ALTERING = {"LRSchedule": "it sets the learning rate"}
"""Handlers outside of the ALTER band that are there to change the training, and how."""


def public_modules() -> list[str]:
    found = pkgutil.iter_modules(eventbus.handlers.__path__, "eventbus.handlers.")
    return [each.name for each in found if not each.name.rpartition(".")[2].startswith("_")]


def handlers_of(module_name: str) -> list[type]:
    """Return the classes that a public module defines and exports, errors aside."""
    module = importlib.import_module(module_name)
    exported = [getattr(module, name) for name in module.__all__]
    return [
        each
        for each in exported
        if isinstance(each, type)
        and each.__module__ == module_name
        and not issubclass(each, BaseException)
    ]


HANDLERS = [handler for module in public_modules() for handler in handlers_of(module)]
every_handler = pytest.mark.parametrize("cls", HANDLERS, ids=lambda cls: cls.__name__)


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a default path leads


# -- the package


def test_every_handler_is_exported_by_the_package() -> None:
    assert sorted(cls.__name__ for cls in HANDLERS) == sorted(eventbus.handlers.__all__)
    for cls in HANDLERS:
        assert getattr(eventbus.handlers, cls.__name__) is cls
    assert set(eventbus.handlers.__all__) <= set(dir(eventbus.handlers))


def test_unknown_handler_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no handler 'EarlyStoping'"):
        eventbus.handlers.EarlyStoping  # type: ignore[attr-defined]  # noqa: B018 - the look-up is the test


def test_package_imports_no_handler_by_itself() -> None:
    loaded = modules_after("import eventbus.handlers")
    assert not [name for name in loaded if name in public_modules()]


@pytest.mark.parametrize("module", public_modules())
def test_handler_imports_alone_and_without_third_parties(module: str) -> None:
    loaded = modules_after(f"import {module}")
    siblings = [name for name in public_modules() if name in loaded and name != module]
    assert siblings == []
    known = {*sys.stdlib_module_names, "eventbus", "blinker"}
    foreign = {name.partition(".")[0] for name in loaded} - known
    assert {name for name in foreign if not name.startswith("_sysconfigdata")} == set()


def modules_after(statement: str) -> set[str]:
    """Return what a statement imports in a fresh interpreter."""
    code = f"import sys; before = set(sys.modules); {statement}; import json"
    code += "; print(json.dumps(sorted(set(sys.modules) - before)))"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@every_handler
def test_handler_says_what_it_hears_produces_costs_and_keeps(cls: type) -> None:
    rows = ("signals consumed", "values produced", "cost", "state", "band, errors")
    lines = [line.strip() for line in (cls.__doc__ or "").splitlines()]
    assert [row for row in rows if not any(line.startswith(f"{row}  ") for line in lines)] == []


# -- coming and going


def open_files() -> list[str]:
    descriptors = Path("/proc/self/fd")
    return sorted(each.name for each in descriptors.iterdir()) if descriptors.exists() else []


def footprint() -> dict[str, Any]:
    """Return what a handler might leave behind in the process."""
    import logging

    return {
        "threads": threading.enumerate(),
        "files": open_files(),
        "signals": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "loggers": (list(logging.root.handlers), list(logging.getLogger("eventbus").handlers)),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "folder": Path.cwd(),
    }


@every_handler
def test_handler_attaches_and_detaches_and_leaves_nothing(cls: type, tmp_path: Path) -> None:
    before = footprint()
    bus, handler = with_handler(cls, tmp_path)
    assert bus.subscriptions
    bus.detach(handler)
    assert bus.subscriptions == ()
    assert bus.describe() == EventBus(strict=True).describe()
    assert footprint() == before
    bus.attach(handler)  # and may come again


@every_handler
@pytest.mark.parametrize(
    "travel",
    [lambda handler: pickle.loads(ForkingPickler.dumps(handler)), copy.deepcopy],
    ids=["to a process", "copied"],
)
def test_handler_made_elsewhere_hears_the_same(
    cls: type, tmp_path: Path, travel: Callable[[Any], Any]
) -> None:
    bus, handler = with_handler(cls, tmp_path)
    elsewhere = EventBus(strict=True)
    elsewhere.attach(travel(handler))
    assert elsewhere.describe() == bus.describe()


@every_handler
def test_handler_leaves_nothing_after_a_run(cls: type, tmp_path: Path) -> None:
    trained_by(with_handler(cls, tmp_path / "first")[0], epochs=1)  # fills caches of libraries
    before = footprint()
    bus, handler = with_handler(cls, tmp_path)
    trained_by(bus, epochs=1)
    bus.detach(handler)
    assert footprint() == before
    gone = weakref.ref(handler)
    del handler
    gc.collect()
    assert gone() is None, "something holds the handler after it was detached"


@every_handler
def test_handler_that_never_saw_a_run_needs_no_closing(cls: type, tmp_path: Path) -> None:
    before = footprint()
    bus, _ = with_handler(cls, tmp_path)
    del bus, _
    gc.collect()
    assert footprint() == before


# -- runs of every kind


@every_handler
@pytest.mark.parametrize(("epochs", "batches"), [(0, 0), (2, 0), (1, 1), (3, 3)])
def test_handler_survives_runs_with_little_in_them(
    cls: type, epochs: int, batches: int, tmp_path: Path
) -> None:
    bus, _ = with_handler(cls, tmp_path)
    assert trained_by(bus, epochs, batches).outcome == "completed"


@every_handler
def test_handler_survives_a_run_by_steps(cls: type, tmp_path: Path) -> None:
    bus, _ = with_handler(cls, tmp_path)
    with Run(bus, model=torch.nn.Linear(1, 1)) as run:
        for step in run.steps(4):
            run.report(loss=1 / step)
            if step == 2:
                for _ in run.validate([1]):
                    run.report(loss=0.5, batch_size=1)
    assert run.outcome == "completed"


@every_handler
def test_handler_survives_a_run_that_tells_nothing(cls: type, tmp_path: Path) -> None:
    bus, _ = with_handler(cls, tmp_path)
    with Run(bus) as run:
        for _epoch in run.epochs(2):
            for _batch in run.batches(images(2)):
                pass
    assert run.outcome == "completed"


class BrokenError(Exception):
    """Something in the loop failed."""


@every_handler
@pytest.mark.parametrize("error", [BrokenError(), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("signal_name", ["batch_finished", "validation_batch_finished"])
def test_handler_survives_a_failing_run(
    cls: type, error: BaseException, signal_name: str, tmp_path: Path
) -> None:
    bus, _ = with_handler(cls, tmp_path)
    outcomes: list[str] = []
    bus.on("run_closed")(lambda outcome: outcomes.append(outcome))

    @bus.on(signal_name, priority=Priority.PERSIST - 1)
    def fail(epoch: int) -> None:
        if epoch == 2:
            raise error

    with pytest.raises(type(error)) as caught:
        trained_by(bus)
    assert caught.value is error
    assert outcomes == ["failed"]


@every_handler
def test_handler_survives_being_closed_twice(cls: type, tmp_path: Path) -> None:
    bus, _ = with_handler(cls, tmp_path)
    trained_by(bus, epochs=1)
    again = bus.bind(sender="train")
    again.emit("run_closed", outcome="completed")
    again.emit("run_closed", outcome="failed")


@every_handler
def test_handler_serves_runs_after_each_other(cls: type, tmp_path: Path) -> None:
    bus, _ = with_handler(cls, tmp_path)
    first = trained_by(bus)
    second = trained_by(bus)
    assert (second.losses, second.weights) == (first.losses, first.weights)


# -- observers


def alters_training(cls: type) -> bool:
    """Tell whether a handler says that it changes data, gradients or weights."""
    (band,) = re.findall(r"^ *band, errors +(.*)$", cls.__doc__ or "", re.MULTILINE)
    return band.startswith("ALTER") or cls.__name__ in ALTERING


@every_handler
def test_handler_changes_nothing_unless_that_is_its_effect(cls: type, tmp_path: Path) -> None:
    bus, _ = with_handler(cls, tmp_path)
    if alters_training(cls):
        pytest.skip(f"{cls.__name__} is there to change the training")
    alone = trained_by(EventBus())
    observed = trained_by(bus)
    assert len(alone.losses) == 9
    assert observed.losses == alone.losses
    assert observed.weights == alone.weights


# -- state


def through_disk(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Compare states: tensors by their values, NaN equal to itself."""
    if isinstance(one, torch.Tensor):
        return bool(torch.equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


@every_handler
def test_state_round_trips_through_the_safe_loader(cls: type, tmp_path: Path) -> None:
    """What is loaded is what was saved (T19)."""
    bus, handler = with_handler(cls, tmp_path)
    if not has_state(handler):
        pytest.skip(f"{cls.__name__} keeps no state")
    fresh = handler.state_dict()
    assert same(through_disk(fresh), fresh)
    states: list[Any] = []
    bus.on("epoch_finished", priority=Priority.PERSIST - 1)(
        lambda: states.append(through_disk(handler.state_dict()))
    )
    trained_by(bus)
    assert len(states) == 3
    for state in states:
        other = make(cls, tmp_path / "other")
        other.load_state_dict(state)
        assert same(other.state_dict(), state)


# -- killed and resumed


def from_epoch(told: list[tuple[Any, ...]], epoch: int) -> list[tuple[Any, ...]]:
    starts = [n for n, (name, at, *_) in enumerate(told) if (name, at) == ("epoch_started", epoch)]
    return told[starts[0] :] if starts else []


@every_handler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_and_resumed_run_tells_and_decides_as_one_that_was_not(
    cls: type, tmp_path: Path, lives: Nursery
) -> None:
    whole = live(cls, tmp_path / "whole")
    assert whole.trained.outcome in ("completed", "stopped")
    kills = [("batch_finished", 5), ("epoch_finished", 9), ("checkpoint_saved", 12)]
    (tmp_path / "cut").mkdir()
    for kill_at in kills:
        lives.die(cls, tmp_path / "cut", kill_at)
    resumed = live(cls, tmp_path / "cut")
    assert resumed.told[0][0] == "run_opened"
    assert from_epoch(resumed.told, 5) == from_epoch(whole.told, 5) != []
    assert from_epoch(resumed.told, 4) == [], "it did not go on from the checkpoint"
    assert resumed.trained.weights == whole.trained.weights
    assert resumed.trained.outcome == whole.trained.outcome


@every_handler
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_run_killed_at_each_of_its_steps_ends_as_one_that_was_not(
    cls: type, tmp_path: Path, lives: Nursery
) -> None:
    whole = live(cls, tmp_path / "whole")
    steps = [name for name, *_ in whole.told].count("batch_finished")
    assert steps >= 3
    kills = [("batch_finished", step) for step in range(1, steps + 1)]
    assert_ends_as_whole(cls, tmp_path / "cut", lives, whole, kills)
