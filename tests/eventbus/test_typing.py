"""Typing: a wrong field is found by the type checker, before anything runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .typed_example import set_up, subscribed, train

EXAMPLE = Path(__file__).with_name("typed_example.py")
ROOT = Path(__file__).parents[2]

pytest.importorskip("mypy")

PREAMBLE = """
from __future__ import annotations
from eventbus import EventBus, Stop, every, handles, signal
from eventbus.signals import batch_finished, epoch_started
bus = EventBus()
loop = bus.bind(sender="train")
@signal()
def mine(*, number: int, text: str = "") -> None: ...
"""
WRONG = [
    "bus.emit(batch_finished, epoch=1, step=1, lss=0.5)",
    "bus.emit(batch_finished, step=1)",
    'bus.emit(batch_finished, epoch="one", step=1)',
    "loop.emit(epoch_started, epoch=1, step=0, loss=1.0)",
    'loop.emit(mine, number="three")',
    "loop.emit(mine)",
    "bus.signal(mine).emit(numbr=3)",
    "loop.signal(mine).emit(numbr=3)",
    "bus.on(3)",
    'bus.on("run_started", on_error="ignore")',
    'bus.on("run_started", priority="high")',
    "loop.emit(batch_finished, epoch=1, step=1).stop.reason",
    "every(1.5)",
    "Stop()",
    'bus.answer("stop")',
    'bus.answer(Stop("x"), runs="each")',
]


# torch is named in annotations only; to read its own would take a minute.
CONFIG = """
[mypy]
strict = True
[mypy-torch.*]
follow_imports = skip
"""


def check(folder: Path, paths: list[Path]) -> str:
    """Run mypy as users do, strict; return what it says."""
    config = folder / "mypy.ini"
    config.write_text(CONFIG)
    code = "import sys; from mypy import api; print(api.run(sys.argv[1:])[0])"
    options = ["--no-error-summary", f"--config-file={config}", *map(str, paths)]
    result = subprocess.run(
        [sys.executable, "-c", code, *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env={**os.environ, "MYPY_CACHE_DIR": str(folder / "cache")},
    )
    assert not result.stderr, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What mypy says to each wrong line; all of them in one run."""
    path = tmp_path_factory.mktemp("typing") / "wrong.py"
    path.write_text(PREAMBLE + "\n".join(WRONG) + "\n")
    first = PREAMBLE.count("\n") + 1
    said = check(path.parent, [path, EXAMPLE])
    by_line = dict.fromkeys(WRONG, "")
    for finding in said.splitlines():
        if finding.startswith(str(path)) and ": error:" in finding:
            number = int(finding.removeprefix(f"{path}:").split(":")[0])
            assert number >= first, finding
            by_line[WRONG[number - first]] += finding
    by_line["the example"] = "\n".join(line for line in said.splitlines() if EXAMPLE.name in line)
    return by_line


@pytest.mark.parametrize("line", WRONG)
def test_mypy_rejects(findings: dict[str, str], line: str) -> None:
    assert findings[line], f"mypy accepts: {line}"


def test_mypy_accepts_the_example(findings: dict[str, str]) -> None:
    assert findings["the example"] == ""


def test_the_example_runs() -> None:
    assert train(set_up()) == "completed"
    assert subscribed() == 0.5
