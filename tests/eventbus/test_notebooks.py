"""Notebooks: a cell that runs again replaces what it defined before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from eventbus import AttachError, Emitter, EventBus, handles

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


# -- objects of classes that the notebook imports


class Imported:
    """Of a module that is not run again."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    @handles("run_started")
    def note(self) -> None:
        self.calls.append("noted")


class Keeping(Imported):
    """It has state, too."""

    def state_dict(self) -> list[Any]:
        return self.calls

    def load_state_dict(self, state: list[Any]) -> None:
        self.calls = state


@pytest.fixture
def shop(notebook: Notebook) -> Notebook:
    """A notebook that has imported the two."""
    notebook.module.__dict__.update(Imported=Imported, Keeping=Keeping, EventBus=EventBus)
    return notebook


ATTACH = "bus.attach(Imported(calls))"


def test_an_imported_handler_that_a_cell_run_again_attaches_is_said_to_be_there_twice(
    shop: Notebook, loop: Emitter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        shop.run(ATTACH)
    loop.emit("run_started")
    assert shop.calls == ["noted", "noted"]
    (told,) = caplog.messages
    assert told == (
        "handler 'Imported' is attached a second time, as its cell was run again, and both are "
        "called: make the bus anew in that cell, too, or detach the first one"
    )


@pytest.mark.parametrize(
    "cells",
    [
        [ATTACH, f"handler = {ATTACH}"],
        [f"{ATTACH}; {ATTACH}"],
        [f"for _ in 'ab': {ATTACH}"],
        ["for name in 'ab': bus.attach(Imported(calls), name=name)"],
        [f"def attach(bus): return {ATTACH}", "a = attach(bus)", "b = attach(bus)"],
        [f"bus = EventBus(); {ATTACH}"] * 2,
        [f"with {ATTACH}: pass"] * 2,
        [f"for held in attached: bus.detach(held)\nattached = [{ATTACH}.thing]"] * 2,
    ],
)
def test_two_imported_handlers_that_are_meant_are_not_remarked_on(
    shop: Notebook, caplog: pytest.LogCaptureFixture, cells: list[str]
) -> None:
    shop.module.__dict__["attached"] = []
    for each in cells:
        shop.run(each)
    assert caplog.messages == []


def test_a_second_state_in_a_cell_run_again_is_told_to_make_the_bus_anew(shop: Notebook) -> None:
    shop.run("bus.attach(Keeping(calls))")
    with pytest.raises(AttachError) as caught:
        shop.run("bus.attach(Keeping(calls))")
    assert str(caught.value) == (
        "the state of another 'Keeping' is attached already: give this one a name, "
        "bus.attach(..., name='Keeping-2'); or, if this is a notebook's cell that was run before, "
        "make the bus anew in it"
    )


def test_an_equal_cell_of_another_file_is_not_the_same_one(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    for file in ("one.py", "two.py"):
        exec(compile("bus.attach(Watcher())", file, "exec"), {"bus": bus, "Watcher": Watcher})
    assert "attached a second time" not in caplog.text


def test_a_handler_for_another_sender_is_not_attached_twice(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    for sender in ("a", "b", "b"):
        names = {"bus": bus, "Watcher": Watcher, "sender": sender}
        exec(compile("bus.attach(Watcher(), sender=sender)", "<cell>", "exec"), names)
    assert caplog.text.count("attached a second time") == 1


class Watcher:
    @handles("epoch_finished")
    def watch(self, epoch: int) -> None: ...
