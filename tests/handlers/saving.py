"""What the tests of checkpoint directories share: states that are known by their step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
