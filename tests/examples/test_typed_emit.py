"""`typed_emit.py`: declarations stand for names, and a wrong field is an error that says which."""

from __future__ import annotations

from .running import run_example


def test_declarations_are_emitted_and_heard() -> None:
    lines = run_example("typed_emit").splitlines()
    assert lines[:3] == [
        "step 3: loss 0.333",
        "step 6: loss 0.167",
        "sample at temperature 1.0: to be or not to be",
    ]
    assert lines[3].startswith("a wrong field: ")
    assert "did you mean 'loss'?" in lines[3]
