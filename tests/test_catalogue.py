"""Every row of the catalogue of failures that checkpoints must survive is held by a named test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__)

ROWS = {
    "T01": "the process dies at an operation on the disk",
    "T02": "it died before a checkpoint had its name; what is not ours",
    "T03": "which checkpoints are deleted",
    "T04": "damaged files",
    "T05": "a disk that is full, or refuses",
    "T06": "a slow disk, and one that fails, beside the training",
    "T07": "the file that names the newest",
    "T08": "the same step saved again",
    "T09": "state that would not load",
    "T10": "SIGTERM to a real process",
    "T11": "a second signal during the save",
    "T12": "who listened to the signal before",
    "T13": "Ctrl-C in a handler, an emission, a save, a close",
    "T14": "the bus against a model",
    "T16": "metrics of any kind",
    "T17": "emissions that lead back to themselves",
    "T18": "a wall clock that is set",
    "T19": "the state of each handler, back and forth",
    "T20": "everything at once, resumed to the bit",
    "T21": "another loader after a resume",
    "T28": "files made to do harm",
    "T29": "formats of other versions",
}
"""By id: what happens to a run."""

NAMED = re.compile(r"\(((?:T\d\d)(?:, T\d\d)*)\)")


def ids_in(path: Path) -> Iterator[str]:
    """Yield the ids in the docstrings of a module and of its tests."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    for node in (tree, *tests):
        for found in NAMED.findall(ast.get_docstring(node) or ""):
            yield from found.split(", ")


NAMES = {
    name: path.name
    for path in HERE.parent.rglob("test_*.py")
    if path != HERE
    for name in ids_in(path)
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_named_by_a_test_that_holds_it(row: str) -> None:
    assert row in NAMES, f"no docstring in tests/ names ({row}): {ROWS[row]}"
