"""What the tests of checkpoint directories share: states that are known by their step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eventbus.handlers import _checkpoint_attempts
from eventbus.handlers._checkpoint_files import Folder
from eventbus.handlers._checkpoint_manifest import Manifest
from eventbus.handlers._files import Files

CHANGES = [
    "makedirs",
    "mkdir",
    "create",
    "write",
    "fsync",
    "fsync_directory",
    "rename",
    "replace",
    "unlink",
    "rmdir",
]
"""The operations of `Files` that change the disk."""


class Died(BaseException):
    """The process is gone."""


class Failing(Files):
    """A file system on which the n-th change raises, and with `for_good` each one after it.

    With `end`, that is called instead, with the exit code of a process that was killed.
    """

    def __init__(
        self,
        at: int,
        error: BaseException,
        for_good: bool = False,
        end: Callable[[int], object] | None = None,
    ) -> None:
        self.at, self.error, self.for_good, self.end = at, error, for_good, end
        self.count = 0

    def __getattribute__(self, name: str) -> Any:
        if name in CHANGES:
            self.count += 1
            if self.count == self.at or (self.for_good and self.count > self.at):
                if self.end is not None:
                    self.end(137)
                raise self.error
        return super().__getattribute__(name)


def draft(step: int, **changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "id": f"id-{step}",
        "epoch": step // 10,
        "step": step,
        "metrics": {},
        "run_id": "run-1",
        "run": "train",
        "saved_at": "2026-01-01T00:00:00+00:00",
        "versions": {},
    }
    return Manifest(**{**facts, **changes})


def state(step: int) -> dict[str, Any]:
    return {"loop": {"step": step}, "weights": torch.full((100,), float(step))}


def newest_step(path: Path) -> int | None:
    found = Folder(path, Files()).newest_loadable(lambda saved: True)
    if found is None:
        return None
    saved, loaded = found
    assert saved.manifest.step == loaded["loop"]["step"]
    assert torch.equal(loaded["weights"], state(loaded["loop"]["step"])["weights"])
    return int(loaded["loop"]["step"])


def leave_unfinished(path: Path) -> None:
    """Leave there what a process that died in a save has left."""
    command = [sys.executable, "-c", "import os; print(os.getpid())"]
    dead = subprocess.run(command, capture_output=True, text=True, check=True)
    name = f".unfinished-10-1-{_checkpoint_attempts._HOST}-{int(dead.stdout)}-0123abcd"
    (path / name).mkdir(parents=True)
    (path / name / "state.pt").touch()


def unfinished(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir() if entry.name.startswith(".unfinished")]


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the process that starts after this one died, with the same id as in a container."""
    monkeypatch.setattr(_checkpoint_attempts, "_under_way", set())
