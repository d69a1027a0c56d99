"""Notebooks: a cell that runs again replaces what it defined before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventbus import Emitter, EventBus, handles

from .recorders import Recorder, run_epochs


def define(bus: EventBus, calls: list[int], version: int) -> Callable[[], None]:
    namespace: dict[str, Any] = {"bus": bus, "calls": calls, "version": version}
    namespace["__name__"] = "__main__"
    exec("@bus.on('run_started')\ndef report(): calls.append(version)", namespace)
    function: Callable[[], None] = namespace["report"]
    return function


def test_a_cell_run_again_replaces_its_function_and_says_so(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    define(bus, calls, 1)
    with caplog.at_level("INFO", logger="eventbus"):
        define(bus, calls, 2)
    loop.emit("run_started")
    assert calls == [2]
    assert "report" in " ".join(record.getMessage() for record in caplog.records)


def test_a_marked_function_of_a_cell_run_again_is_replaced_too(
    bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    with caplog.at_level("INFO", logger="eventbus"):
        for version in (1, 2):
            namespace: dict[str, Any] = {"handles": handles, "calls": calls, "version": version}
            namespace["__name__"] = "__main__"
            exec("@handles('run_started')\ndef mark(): calls.append(version)", namespace)
            bus.attach(namespace["mark"])
    loop.emit("run_started")
    assert calls == [2]
    assert "mark" in " ".join(record.getMessage() for record in caplog.records)


def test_lambdas_and_functions_made_by_functions_do_not_replace_each_other(
    bus: EventBus, loop: Emitter
) -> None:
    recorder = Recorder()

    def make(name: str) -> Callable[[], None]:
        def made() -> None:
            recorder.calls.append(name)

        return made

    for name in ("a", "b"):
        bus.on("run_started")(make(name))
        bus.on("run_started")(lambda name=name: recorder.calls.append(f"lambda {name}"))
    loop.emit("run_started")
    assert recorder.calls == ["a", "lambda a", "b", "lambda b"]


def test_one_function_may_hear_several_signals_one_by_one(bus: EventBus, loop: Emitter) -> None:
    bus.on("epoch_started")(note_epoch)
    bus.on("epoch_finished")(note_epoch)
    note_epoch_calls.clear()
    run_epochs(loop, 1)
    assert note_epoch_calls == [1, 1]


note_epoch_calls: list[int] = []


def note_epoch(epoch: int) -> None:
    """A function of a module, so that its qualified name is its own."""
    note_epoch_calls.append(epoch)
