"""`ddp_digits.py`: alone, and as the ranks of torchrun, which stop, save and resume together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventbus.handlers import Checkpoint

from .running import EXAMPLES, run_example, skip_without

skip_without("sklearn")


def steps(folder: Path) -> list[int]:
    return [saved.manifest.step or 0 for saved in Checkpoint.saved(folder / "checkpoints")]


@pytest.mark.slow  # it imports all of torch.distributed, in a process of its own
def test_one_process_trains_as_any_other(tmp_path: Path) -> None:
    said = run_example("ddp_digits", "--run-dir", tmp_path, "--epochs", "2")
    assert "run finished after 0:0" in said
    assert steps(tmp_path) == [45, 90]


@contextmanager
def torchrun(folder: Path, epochs: int) -> Iterator[subprocess.Popen[str]]:
    launcher = "import sys; from torch.distributed.run import main; main(sys.argv[1:])"
    options = ["--standalone", "--nproc-per-node=2", str(EXAMPLES / "ddp_digits.py")]
    options += ["--run-dir", str(folder), "--epochs", str(epochs)]
    with subprocess.Popen(
        [sys.executable, "-c", launcher, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Return what is said up to the first line that has the pattern in it, or to the end."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if re.search(pattern, line):
            break
    return said


@pytest.mark.slow
def test_ranks_of_torchrun_stop_save_and_resume_together(tmp_path: Path) -> None:
    with torchrun(tmp_path, epochs=500) as process:
        read_until(process, "checkpoint saved")
        process.send_signal(signal.SIGTERM)
        said = read_until(process, "never said")
        assert process.wait() != 0
    assert "run finished after 0:0" in said, said
    assert "SIGTERM" in said
    step = steps(tmp_path)[-1]
    with torchrun(tmp_path, epochs=step // 23 + 1) as process:
        said = read_until(process, "never said")
        assert process.wait() == 0, said
    assert re.search(rf"resumed from \S+/step-{step:08d}", said), said
    assert steps(tmp_path)[-1] == 23 * (step // 23 + 1)
