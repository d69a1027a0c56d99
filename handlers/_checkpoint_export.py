"""The weights of a checkpoint, for programs that know nothing of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._checkpoint_attempts import attempt_name
from ._checkpoint_files import SavedCheckpoint
from ._checkpoint_loading import CheckpointError, cause
from ._files import Files
from ._requires import require

__all__ = ["export_weights", "part_of"]


def part_of(state: Mapping[str, Any], part: str, path: Path) -> Any:
    """Return one part of a checkpoint's state; an error lists those there are."""
    if part not in state:
        there = ", ".join(sorted(state)) or "none"
        raise CheckpointError(f"{path} has no part {part!r}; it has: {there}", path=path)
    return state[part]


def export_weights(weights: Any, target: Path, saved: SavedCheckpoint, files: Files) -> None:
    """Write tensors as safetensors; the file appears whole, in the place of one that was there.

    Raises
    ------
    ImportError
        safetensors is not installed.
    CheckpointError
        The part holds something else than tensors by name, or the file cannot be written.
    """
    _check_target(target)
    library = require("safetensors.torch", extra="safetensors", wanted_by="Checkpoint.export")
    tensors = _apart(weights, saved.path)
    manifest = saved.manifest
    told = {"format": "pt", "run_id": manifest.run_id, "step": manifest.step}
    facts = {key: str(value) for key, value in told.items() if value is not None}
    data: bytes = library.save(tensors, metadata=facts)
    try:
        _put(data, target, files)
    except OSError as error:
        raise CheckpointError(f"{target} is not written: {cause(error)}", path=target) from error


def _check_target(target: Path) -> None:
    if target.is_dir():
        raise CheckpointError(f"{target} is a directory: give the name of a file", path=target)
    if not target.parent.is_dir():
        raise CheckpointError(f"there is no directory {target.parent} for {target}", path=target)


def _put(data: bytes, target: Path, files: Files) -> None:
    attempt = target.with_name(attempt_name(target.name))
    try:
        with files.create(attempt) as file:
            files.write(file, data)
            files.fsync(file)
        files.replace(attempt, target)
    except BaseException:
        attempt.unlink(missing_ok=True)
        raise
    files.fsync_directory(target.parent)


def _apart(weights: Any, path: Path) -> dict[str, Any]:
    """Give each tensor memory of its own, which the format demands: tied weights share theirs."""
    import torch

    if not isinstance(weights, Mapping):
        raise CheckpointError(f"what {path} holds are not tensors by name", path=path)
    tensors: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise CheckpointError(
                f"{name!r} in {path} is not a tensor but {kind}: export a part that holds weights",
                path=path,
            )
        place = value.untyped_storage().data_ptr()
        tensors[str(name)] = value.clone() if place in taken else value.contiguous()
        taken.add(place)
    return tensors
