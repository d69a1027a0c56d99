"""Limits set by the operating system itself, in a process of its own (T05)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .saving import newest_step

SCRIPT = """
import resource, sys, torch
from pathlib import Path
from eventbus import EventBus, State
from eventbus.handlers import Checkpoint
from eventbus.handlers.checkpoint import CheckpointError

asynchronous = sys.argv[2] == "asynchronous"
bus, size = EventBus(), [100]
bus.attach(Checkpoint(sys.argv[1], keep=1, asynchronous=asynchronous))
bus.on("state_requested")(lambda: [
    State("loop", {"step": 10}), State("weights", torch.full((size[0],), 10.0))
])
loop = bus.bind(sender="train")
loop.emit("epoch_finished", epoch=1, step=10, metrics={})
loop.emit("run_closed", outcome="completed")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
size[0] = 1_000_000
try:
    loop.emit("epoch_finished", epoch=2, step=20, metrics={})
    loop.emit("run_closed", outcome="completed")
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs the limits of Unix")
@pytest.mark.parametrize("way", ["waiting", "asynchronous"])
def test_file_that_may_not_grow_leaves_the_previous_intact(tmp_path: Path, way: str) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert str(tmp_path / "run") in done.stdout
    assert newest_step(tmp_path / "run") == 10
    left = sorted(entry.name for entry in (tmp_path / "run").iterdir())
    assert left == ["latest", "step-00000010-0001"]


FULL = """
import sys, torch
from pathlib import Path
from eventbus import EventBus, State
from eventbus.handlers import Checkpoint
from eventbus.handlers.checkpoint import CheckpointError

bus, size = EventBus(strict=True), [100]
bus.attach(Checkpoint(sys.argv[1], keep=1))
bus.on("state_requested")(lambda: State("weights", torch.full((size[0],), 10.0)))
loop = bus.bind(sender="train")
loop.emit("epoch_finished", epoch=1, step=10, metrics={})
size[0] = 1_000_000
try:
    loop.emit("epoch_finished", epoch=2, step=20, metrics={})
except CheckpointError as error:
    print(error)
print(sorted(each.name for each in Path(sys.argv[1]).iterdir()))
print(Checkpoint.load(sys.argv[1])["weights"].tolist() == [10.0] * 100)
"""


@pytest.mark.slow
def test_disk_that_is_really_full_leaves_the_previous_intact(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" -c "$3" "$1/run"'
    names = ["unshare", "-rm", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*names, "true"], check=False).returncode:
        pytest.skip("needs a namespace of its own to mount a small disk in")
    command = [*names, mount, "sh", str(tmp_path), sys.executable, FULL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told, left, is_intact = done.stdout.splitlines()
    assert f"in {tmp_path / 'run'}: No space left on device" in told
    assert left == "['latest', 'step-00000010-0001']"
    assert is_intact == "True"
