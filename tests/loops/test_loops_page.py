"""`docs/loops.md` says what the suite shows; `make docs` writes its tables anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from .effects import EFFECTS
from .loops_page import COLUMNS, TABLES, handlers_table, with_tables
from .test_any_loop import trained_by

PAGE = Path(__file__).parents[2] / "docs" / "loops.md"

for loop in COLUMNS:
    pytest.importorskip({"huggingface": "transformers", "fit": "torch"}.get(loop, loop))


def test_the_tables_are_what_the_suite_shows(request: pytest.FixtureRequest) -> None:
    written = PAGE.read_text(encoding="utf-8")
    if request.config.getoption("--write-docs"):
        PAGE.write_text(with_tables(written), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == with_tables(written), "run `make docs`"


@pytest.mark.parametrize("name", TABLES)
def test_a_page_without_a_table_is_told(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8").replace(f"<!-- {name}: ", "<!-- other: ")
    with pytest.raises(AssertionError, match=name):
        with_tables(page)


def test_a_row_has_a_cell_for_each_loop() -> None:
    head, _, *rows = handlers_table().splitlines()
    assert len(rows) == len(EFFECTS)
    assert {row.count(" | ") for row in (head, *rows)} == {len(COLUMNS)}
    assert all(trained_by(loop).NAME in head for loop in COLUMNS)
