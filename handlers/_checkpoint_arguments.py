"""What `Checkpoint` refuses when it is made."""

from __future__ import annotations

import os

__all__ = ["check_arguments"]


def check_arguments(keep: int | None, keep_best: int, resume: str | os.PathLike[str]) -> None:
    """Raise `ValueError` for a wrong count, `TypeError` for a wrong way to resume."""
    if keep is not None and not _is_count(keep):
        raise ValueError(f"Checkpoint: keep is at least 1, or None for all; got {keep!r}")
    if not _is_count(keep_best):
        raise ValueError(f"Checkpoint: keep_best is at least 1; got {keep_best!r}")
    if not isinstance(resume, str | os.PathLike) or not os.fspath(resume):
        raise TypeError(f"Checkpoint: resume is 'auto', 'never' or a path; got {resume!r}")


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
