"""Run an example as a user does: its own process, from another folder, warnings as errors."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def skip_without(library: str) -> None:
    """Skip a module of tests; the library is not imported, which would take seconds."""
    if find_spec(library) is None:
        pytest.skip(f"could not import {library!r}", allow_module_level=True)


def run_example(
    name: str, *arguments: str | Path, cwd: Path | None = None, ignore: tuple[str, ...] = ()
) -> str:
    """Return what it printed.

    Parameters
    ----------
    ignore
        Warnings of a framework's own, as for `python -W ignore:...`.
    """
    script = EXAMPLES / f"{name}.py"
    ignored = [part for one in ignore for part in ("-W", f"ignore:{one}")]
    result = subprocess.run(
        [sys.executable, "-W", "error", *ignored, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=cwd,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout
