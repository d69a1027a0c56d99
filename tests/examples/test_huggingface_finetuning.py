"""`huggingface_finetuning.py`: portable handlers stop it, save it and file its curves."""

from __future__ import annotations

from pathlib import Path

import pytest

from .digits_example import ended_as_it_should
from .running import run_example, skip_without

skip_without("transformers")


@pytest.mark.slow  # it imports all of the framework, in a process of its own
def test_handlers_that_never_saw_transformers_work_there(tmp_path: Path) -> None:
    said = run_example("huggingface_finetuning", "--run-dir", tmp_path)
    ended_as_it_should(said, tmp_path)
    (newest,) = (tmp_path / "trainer").glob("checkpoint-*")
    assert (newest / "eventbus.pt").exists()
