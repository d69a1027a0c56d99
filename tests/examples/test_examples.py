"""All examples: each is documented, tested, and says how it is run; type checkers look at them."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from .running import EXAMPLES

SCRIPTS = sorted(
    path.stem for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
)
TESTED_TOGETHER = {"with_run": "by_hand"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_says_how_to_run_it(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(source)) or ""
    assert f"Run it with: python examples/{name}.py" in docstring
    assert len(docstring.splitlines()) <= 5


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_has_a_row_in_the_readme_and_a_test(name: str) -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"python examples/{name}.py" in readme
    assert Path(__file__).with_name(f"test_{TESTED_TOGETHER.get(name, name)}.py").exists()


def test_make_types_checks_the_examples_too() -> None:
    settings = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert "examples" in settings["tool"]["mypy"]["files"]
    assert "examples" in settings["tool"]["pyright"]["include"]
