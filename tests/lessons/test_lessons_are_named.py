"""Every lesson says from whom it was learnt, and each of them is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FRAMEWORKS = (
    "Hugging Face",
    "Ignite",
    "Keras",
    "Lightning",
    "Ludwig",
    "MMEngine",
    "TorchTNT",
    "detectron2",
    "fastai",
    "skorch",
    "verl",
)
LESSONS = {
    node.name: ast.get_docstring(node) or ""
    for path in Path(__file__).parent.glob("test_lessons_of_*.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
}


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_a_lesson_names_a_framework(name: str) -> None:
    assert any(framework in LESSONS[name] for framework in FRAMEWORKS)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_has_a_lesson(framework: str) -> None:
    assert any(framework in said for said in LESSONS.values())
