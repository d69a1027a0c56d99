"""All examples: each is documented, tested, and says how it is run; type checkers accept them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
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


@pytest.mark.slow  # `make types` checks the folder too, with all else
def test_mypy_accepts_the_examples() -> None:
    pytest.importorskip("mypy")
    root = EXAMPLES.parent
    code = "import sys; from mypy import api; print(*api.run(sys.argv[1:])[:2], sep='')"
    result = subprocess.run(
        [sys.executable, "-c", code, "examples"],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
        cwd=root,
        env={**os.environ, "MYPY_CACHE_DIR": str(root / ".mypy_cache" / "examples")},
    )
    assert [line for line in result.stdout.splitlines() if line.startswith("examples/")] == []
