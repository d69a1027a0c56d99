"""Notebooks: a cell that runs again replaces what it defined before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
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


# -- classes


class Notebook:
    """A module whose cells are run one by one, as a notebook's are."""

    def __init__(self, bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = ModuleType("a_notebook")
        self.calls: list[Any] = []
        self.module.__dict__.update(bus=bus, calls=self.calls, handles=handles)
        monkeypatch.setitem(sys.modules, "a_notebook", self.module)

    def run(self, cell: str) -> None:
        exec(cell, self.module.__dict__)


@pytest.fixture
def notebook(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    return Notebook(bus, monkeypatch)


def cell(version: int, then: str = "bus.attach(Report())") -> str:
    return f"""
class Report:
    @handles("run_started", name="reporting")
    def report(self): calls.append({version})
    def __call__(self): calls.append({version})
{then}
"""


STATE = """
class Report:
    def __init__(self): self.seen = 0
    @handles("run_started")
    def report(self):
        self.seen += 1
        calls.append(self.seen)
    def state_dict(self): return {"seen": self.seen}
    def load_state_dict(self, state): self.seen = state["seen"]
bus.attach(Report())
"""


def test_a_class_of_a_cell_run_again_has_its_old_object_replaced(
    notebook: Notebook, bus: EventBus, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    for version in (1, 2, 3):
        notebook.run(cell(version))
    loop.emit("run_started")
    assert notebook.calls == [3]
    again = "handler 'Report' was defined again: the new one replaces it"
    assert caplog.messages == [again, again]
    assert [one.name for one in bus.subscriptions] == ["reporting"]


def test_a_stateful_object_is_replaced_and_its_state_is_not_carried_over(
    notebook: Notebook, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        notebook.run(STATE)
        loop.emit("run_started")
    assert notebook.calls == [1, 1]
    (told,) = caplog.messages
    assert told.endswith("replaces it, and its state is not carried over")


def test_all_objects_of_the_old_class_are_replaced(
    notebook: Notebook, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    attach_two = "for name in 'ab': bus.attach(Report(), name=name)"
    for version in (1, 2):
        notebook.run(cell(version, attach_two))
    loop.emit("run_started")
    assert notebook.calls == [2, 2]
    assert [text.split("'")[1] for text in caplog.messages] == ["a", "b"]


@pytest.mark.parametrize("handler", ["Report().report", "Report()"])
def test_a_method_or_an_object_that_was_subscribed_is_replaced_too(
    handler: str, notebook: Notebook, loop: Emitter
) -> None:
    for version in (1, 2):
        notebook.run(cell(version, f"bus.on('run_started')({handler})"))
    loop.emit("run_started")
    assert notebook.calls == [2]


def test_two_objects_of_one_class_stay_two(notebook: Notebook, loop: Emitter) -> None:
    notebook.run(cell(1))
    notebook.run("bus.attach(Report())")
    loop.emit("run_started")
    assert notebook.calls == [1, 1]


def test_an_object_of_the_old_class_may_be_attached_beside_one_of_the_new(
    notebook: Notebook, loop: Emitter
) -> None:
    notebook.run(cell(1, "old = Report()"))
    notebook.run(cell(2))
    notebook.run("bus.attach(old)")
    loop.emit("run_started")
    assert notebook.calls == [2, 1]


def test_objects_of_classes_made_by_a_function_stay_apart(
    notebook: Notebook, loop: Emitter
) -> None:
    body = cell(0, "return Report()").replace("append(0)", "append(version)")
    notebook.run("def make(version):" + body.replace("\n", "\n    "))
    notebook.run("for version in (1, 2): bus.attach(make(version))")
    loop.emit("run_started")
    assert notebook.calls == [1, 2]


def test_objects_of_classes_of_one_name_that_no_name_holds_stay_apart(
    notebook: Notebook, loop: Emitter
) -> None:
    notebook.run(cell(0, "Base = Report"))
    notebook.run("for _ in 'ab': bus.attach(type('Made', (Base,), {'__module__': __name__})())")
    loop.emit("run_started")
    assert notebook.calls == [0, 0]


def test_a_class_of_the_same_name_in_another_module_replaces_nothing(
    notebook: Notebook, bus: EventBus, loop: Emitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook.run(cell(1))
    other = ModuleType("another_notebook")
    monkeypatch.setitem(sys.modules, "another_notebook", other)
    other.__dict__.update(vars(notebook.module), __name__="another_notebook")
    exec(cell(2), other.__dict__)
    notebook.run(cell(3))
    loop.emit("run_started")
    assert notebook.calls == [2, 3]
