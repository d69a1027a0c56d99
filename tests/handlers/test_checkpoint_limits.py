"""Limits set by the operating system itself, in a process of its own."""

from __future__ import annotations

import os
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
