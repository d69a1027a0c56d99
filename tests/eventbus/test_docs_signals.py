"""`docs/signals.md` is what the code says, and says all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eventbus.cli.pages import PAGES, write_pages
from eventbus.cli.signals_page import RUN, signals_page
from eventbus.cli.vocabulary import signal_facts
from eventbus.signals import STANDARD

DOCS = Path(__file__).parents[2] / "docs"

each_name = pytest.mark.parametrize("name", STANDARD)


def section(name: str) -> str:
    """What the page says below the heading `name`."""
    below = signals_page().partition(f"\n### {name}\n")[2]
    return re.split(r"^##+ ", below, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_says(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), f"docs/{name} is not up to date: run `make docs`"


def test_writing_the_pages_writes_each_of_them(tmp_path: Path) -> None:
    written = write_pages(tmp_path)
    assert sorted(written) == sorted(tmp_path.iterdir())
    assert {path.name for path in written} == set(PAGES)


@each_name
def test_the_annotated_run_has_every_signal_in_its_place(name: str) -> None:
    assert len(re.findall(rf"\b{name}\b", RUN)) >= 1


def test_the_annotated_run_names_no_signal_that_is_not_there() -> None:
    suffixes = "started|finished|opened|closed|loaded|skipped|interrupted|failed|restored|done"
    named = set(re.findall(rf"\b[a-z]+(?:_[a-z]+)*_(?:{suffixes})\b", RUN))
    assert named <= set(STANDARD)


@each_name
def test_a_section_says_when_how_often_and_on_which_clock(name: str) -> None:
    facts = signal_facts(STANDARD[name])
    text = section(name)
    assert facts.when in text
    assert facts.often in text
    assert facts.notes in text
    assert f"clock: {facts.clock or 'none'}." in text


@each_name
def test_a_section_has_a_row_for_each_field(name: str) -> None:
    text = section(name)
    for field in signal_facts(STANDARD[name]).fields:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{field.name}` |"))
        assert field.meaning in row.replace(r"\|", "|")
        assert f"`{field.type}`" in row.replace(r"\|", "|")
        assert field.unit in row
        assert ("optional" if field.is_optional else "always") in row


def test_the_overview_lists_the_signals_in_order_and_links_them() -> None:
    linked = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\)", signals_page(), flags=re.MULTILINE)
    assert linked == [(name, name) for name in STANDARD]


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    for block in re.findall(r"(?:^\|.*\n)+", signals_page(), flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block
