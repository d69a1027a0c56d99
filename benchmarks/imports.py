"""How long an import takes, each in a process of its own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable

from benchmarks.measure import Effort
from benchmarks.results import Row
from benchmarks.rivals import Rival

__all__ = ["NOTE", "measure"]

GOAL_MS = 60.0
NOTE = (
    "Each in a fresh process, milliseconds by the clock from before the import to after it, the"
    " median; files are in the system's cache, and compiled once before, as after an installation."
    " Torch must not be among the modules that `import"
    " eventbus` loads: each of them is looked for."
)

PROGRAM = """
import sys, time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began, "torch" in sys.modules)
"""


def measure(effort: Effort, rivals: Iterable[Rival]) -> list[Row]:
    """Measure our import and theirs."""
    with tempfile.TemporaryDirectory() as compiled:
        return _measured(effort, rivals, compiled)


def _measured(effort: Effort, rivals: Iterable[Rival], compiled: str) -> list[Row]:
    rounds = max(1, effort.rounds)
    own = [_imported("eventbus", compiled) for _ in range(rounds + 1)][1:]
    seconds = statistics.median(taken for taken, _ in own)
    torch = any(has_torch for _, has_torch in own)
    return [
        Row("import", "import", "eventbus", 1000 * seconds, "ms", GOAL_MS),
        Row("import", "modules of torch that it loads", "eventbus", float(torch), "", 0.0),
        *(_theirs(rival, compiled) for rival in rivals),
    ]


def _theirs(rival: Rival, compiled: str) -> Row:
    _, *later = [_imported(rival.module, compiled)[0] for _ in range(4)]
    return Row("import", "import", rival.name, 1000 * statistics.median(later), "ms")


def _imported(module: str, compiled: str) -> tuple[float, bool]:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    seconds, has_torch = done.stdout.split()[-2:]
    return float(seconds), has_torch == "True"
