"""What `Checkpoint` offers to programs that have no bus: reading what was saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ._checkpoint_export import export_weights, part_of
from ._checkpoint_files import Folder, SavedCheckpoint, load_newest
from ._checkpoint_loading import CheckpointError
from ._files import Files

__all__ = ["WithoutBus"]


class WithoutBus:
    """Reads checkpoints; keeps nothing."""

    @staticmethod
    def load(path: str | os.PathLike[str]) -> dict[str, Any]:
        """Verify a checkpoint and return its state: plain dicts and CPU tensors, by part.

        Parameters
        ----------
        path
            A checkpoint, or a directory of them, of which the newest that verifies is loaded.

        Raises
        ------
        CheckpointError
            There is none, or it is damaged, or the newest cannot be read.
        """
        return load_newest(Path(path), Files())[1]

    @staticmethod
    def weights(path: str | os.PathLike[str], part: str = "model") -> Any:
        """Return one part of a checkpoint, verified as by `load`: the state dict of the model.

        Of several models one is the part ``models.<name>``. ``EMA.averaged`` is what is in a part:
        an average of the weights has the names of the model's own there.
        """
        saved, state = load_newest(Path(path), Files())
        return part_of(state, part, saved.path)

    @staticmethod
    def export(
        path: str | os.PathLike[str], target: str | os.PathLike[str], part: str = "model"
    ) -> None:
        """Write the weights of a checkpoint, verified as by `load`, to a safetensors file.

        Which ones is said by `part`, as to `weights`.
        """
        saved, state = load_newest(Path(path), Files())
        export_weights(state, part, Path(target), saved, Files())

    @staticmethod
    def saved(directory: str | os.PathLike[str]) -> list[SavedCheckpoint]:
        """List the checkpoints in a directory, oldest first; payloads are not read.

        Raises
        ------
        CheckpointError
            It is a file.
        """
        path = Path(directory)
        if path.is_file():
            message = f"{path} is a file: give the directory that a Checkpoint handler saves to"
            raise CheckpointError(message, path=path)
        return Folder(path, Files()).saved()
