"""`docs/handlers.md` has a row for each handler, and each row is what the handler does."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from eventbus import handlers
from eventbus.cli import main
from eventbus.cli.catalogue import ROWS, HandlerFacts, facts_in_words, shipped_handlers
from eventbus.cli.handlers_page import handlers_page, how_made
from eventbus.marks import find_marks
from eventbus.signals import STANDARD
from eventbus.state import has_state

DOCS = Path(__file__).parents[2] / "docs"
SHIPPED = shipped_handlers()
each_handler = pytest.mark.parametrize("facts", SHIPPED, ids=lambda facts: facts.name)


def cls_of(facts: HandlerFacts) -> type:
    found: type = getattr(handlers, facts.name)
    return found


def row_of(facts: HandlerFacts) -> list[str]:
    (line,) = re.findall(rf"^\| \[`{facts.name}`\].*$", handlers_page(), re.MULTILINE)
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def sources_of(cls: type) -> Iterator[ast.Module]:
    """The module of a handler and those private ones that it is made of."""
    waiting, seen = [cls.__module__], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        tree = ast.parse(inspect.getsource(import_module(name)))
        yield tree
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                private = node.module.removeprefix("eventbus.handlers.")
                if private.startswith("_") and private != "__future__":
                    waiting.append(f"eventbus.handlers.{private}")


def test_the_page_is_what_the_code_says() -> None:
    written = (DOCS / "handlers.md").read_text(encoding="utf-8")
    assert written == handlers_page(), "docs/handlers.md is not up to date: run `make docs`"


def test_the_page_has_a_row_for_each_handler_and_no_other() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]", handlers_page(), re.MULTILINE)
    assert sorted(rows) == sorted(handlers.__all__)


@each_handler
def test_a_row_has_every_cell(facts: HandlerFacts) -> None:
    cells = row_of(facts)
    assert len(cells) == 2 + len(facts_in_words(facts))
    assert all(cells)
    assert set(facts.says) - set(ROWS) <= {"needs"}


@each_handler
def test_a_row_links_the_module(facts: HandlerFacts) -> None:
    address = re.search(r"\((.*)\)", row_of(facts)[0])
    assert address
    assert f"class {facts.name}" in (DOCS / address[1]).read_text(encoding="utf-8")


@each_handler
def test_a_row_names_each_signal_that_the_code_hears(facts: HandlerFacts) -> None:
    named = re.findall(r"`([\w*]+)`", facts.hears)
    missing = [one for one in facts.signals if not any(fnmatchcase(one, name) for name in named)]
    assert missing == []


@each_handler
def test_a_row_names_no_signal_that_is_not_there(facts: HandlerFacts) -> None:
    signature = inspect.signature(cls_of(facts)).parameters
    unknown = {
        name
        for name in re.findall(r"`([\w*]+)`", facts.hears)
        if not any(fnmatchcase(one, name) for one in STANDARD) and name not in signature
    }
    assert unknown <= {"metrics"}


@each_handler
def test_a_row_has_the_band_of_the_marks(facts: HandlerFacts) -> None:
    assert any(band in facts.band for band in facts.bands)


@each_handler
def test_a_row_has_the_error_policy_of_the_marks(facts: HandlerFacts) -> None:
    found = {mark.on_error for _, _, mark in find_marks(object.__new__(cls_of(facts)))}
    expected = {"isolate"} if facts.errors.startswith("isolated") else {None, "raise"}
    assert found <= expected


@each_handler
def test_a_row_tells_state_where_the_handler_gives_any(facts: HandlerFacts) -> None:
    stateful = has_state(object.__new__(cls_of(facts)))
    assert stateful is not facts.says["state"].startswith("none")


@each_handler
def test_a_row_names_the_extras_that_the_code_asks_for(facts: HandlerFacts) -> None:
    asked = {
        node.value.value
        for tree in sources_of(cls_of(facts))
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword)
        and node.arg == "extra"
        and isinstance(node.value, ast.Constant)
    }
    assert set(facts.extras) == asked


@each_handler
def test_a_row_shows_how_a_handler_is_made(facts: HandlerFacts) -> None:
    (line,) = re.findall(rf"^{facts.name}\(.*\)$", handlers_page(), re.MULTILINE)
    made: dict[str, Any] = dict(inspect.signature(cls_of(facts)).parameters)
    assert all(re.search(rf"\b{name}\b", line) for name in made)
    assert line == how_made(cls_of(facts))


def test_the_command_prints_what_the_page_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["handlers"]) == 0
    printed = capsys.readouterr().out
    for facts in SHIPPED:
        assert facts.line in printed
        for label, text in facts_in_words(facts).items():
            assert f"{label}: {text}" in printed
