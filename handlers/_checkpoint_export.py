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


_COUNT, _PREFIX = "n_averaged", "module."  # of torch.optim.swa_utils.AveragedModel

_NOTHING = object()


def part_of(state: Mapping[str, Any], part: str, path: Path) -> Any:
    """Return one part of a checkpoint's state, or what is in one; an error lists those there are.

    What is in a part and is an average is given under the names of the model that it is of.
    """
    if part in state:
        return state[part]
    found = _inside(state, part)
    if found is _NOTHING:
        there = ", ".join(_listed(state)) or "none"
        raise CheckpointError(f"{path} has no part {part!r}; it has: {there}", path=path)
    return _as_of_the_model(found)


def _inside(state: Any, dotted: str) -> Any:
    """Look a path of names up, each of which may have dots itself."""
    if not isinstance(state, Mapping):
        return _NOTHING
    if dotted in state:
        return state[dotted]
    dots = (place for place, mark in enumerate(dotted) if mark == ".")
    found = (_inside(state.get(dotted[:dot]), dotted[dot + 1 :]) for dot in dots)
    return next((one for one in found if one is not _NOTHING), _NOTHING)


def _listed(state: Mapping[str, Any]) -> list[str]:
    """List the parts, and the weights that are in one."""
    inside = [f"{part}.{name}" for part in state for name in _weights_in(state[part])]
    return sorted([*state, *inside])


def _weights_in(part: Any) -> list[str]:
    """Name what in a part are tensors by name."""
    if not isinstance(part, Mapping):
        return []
    return [
        name for name, inner in part.items() if isinstance(inner, Mapping) and _all_tensors(inner)
    ]


def _all_tensors(inner: Mapping[str, Any]) -> bool:
    import torch

    return bool(inner) and all(isinstance(value, torch.Tensor) for value in inner.values())


def _as_of_the_model(found: Any) -> Any:
    if not isinstance(found, Mapping) or _COUNT not in found:
        return found
    weights = {name: value for name, value in found.items() if name != _COUNT}
    if not all(name.startswith(_PREFIX) for name in weights):
        return found
    return {name.removeprefix(_PREFIX): value for name, value in weights.items()}


def export_weights(
    state: Mapping[str, Any], part: str, target: Path, saved: SavedCheckpoint, files: Files
) -> None:
    """Write tensors as safetensors; the file appears whole, in the place of one that was there.

    Raises
    ------
    ImportError
        safetensors is not installed.
    CheckpointError
        The part holds something else than tensors by name, or the file cannot be written.
    """
    weights = part_of(state, part, saved.path)
    _check_target(target)
    library = require("safetensors.torch", extra="safetensors", wanted_by="Checkpoint.export")
    tensors = _apart(weights, part, saved.path)
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


def _apart(weights: Any, part: str, path: Path) -> dict[str, Any]:
    """Give each tensor memory of its own, which the format demands: tied weights share theirs."""
    import torch

    if not isinstance(weights, Mapping):
        raise CheckpointError(f"what {path} holds are not tensors by name", path=path)
    tensors: dict[str, torch.Tensor] = {}
    taken: set[int] = set()
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            inside = next((f"{part}.{inner}" for inner in _weights_in(weights)), None)
            instead = f"write part={inside!r}" if inside else "export a part that holds weights"
            raise CheckpointError(
                f"{name!r} in {path} is not a tensor but {kind}: {instead}", path=path
            )
        place = value.untyped_storage().data_ptr()
        tensors[str(name)] = value.clone() if place in taken else value.contiguous()
        taken.add(place)
    return tensors
