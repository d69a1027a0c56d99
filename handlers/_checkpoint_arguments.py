"""What `Checkpoint` refuses when it is made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from eventbus.filters import AtMostEvery, Filter
from eventbus.signal_names import covers

from ._arguments import When
from ._checkpoint_facts import has_other_ranks

__all__ = ["RESUME_WORDS", "check_arguments", "check_clock", "check_signals"]

RESUME_WORDS = ("auto", "never")
"""What `resume` may be besides a path."""

_OF_A_SAVE = ("state_requested", "checkpoint_saved")


def check_arguments(keep: int | None, keep_best: int, resume: str | os.PathLike[str]) -> None:
    """Raise `ValueError` for a wrong count or word, `TypeError` for a wrong way to resume."""
    if keep is not None and not _is_count(keep):
        raise ValueError(f"Checkpoint: keep is at least 1, or None for all; got {keep!r}")
    if not _is_count(keep_best):
        raise ValueError(f"Checkpoint: keep_best is at least 1; got {keep_best!r}")
    if not isinstance(resume, str | os.PathLike) or not os.fspath(resume):
        raise TypeError(f"Checkpoint: resume is 'auto', 'never' or a path; got {resume!r}")
    if resume not in RESUME_WORDS and _is_word(resume) and not Path(resume).exists():
        raise ValueError(
            f"Checkpoint: resume is 'auto', 'never' or a path; got {resume!r}, and nothing is there"
        )


def check_signals(signals: Iterable[str]) -> None:
    """Raise `ValueError` for a signal that each save emits: the save on it would emit it again."""
    for given in signals:
        own = next((name for name in _OF_A_SAVE if given == name or covers(given, name)), None)
        if own is not None:
            which = "is what" if given == own else f"covers {own!r}, which"
            raise ValueError(
                f"Checkpoint: on={given!r} {which} each save emits, so that it would save without "
                "end; name the signals of the loop to save on, such as 'epoch_finished'"
            )


def check_clock(when: When | None) -> None:
    """Raise `ValueError` for a filter by time where ranks have to save together."""
    if has_other_ranks() and any(isinstance(part, AtMostEvery) for part in _parts(when)):
        raise ValueError(
            f"Checkpoint: when={when!r} is due at another time on each rank; with several ranks "
            "save by a count, when=every(n)"
        )


def _parts(when: object) -> Iterator[Filter]:
    if isinstance(when, Filter):
        yield when
        for part in vars(when).values():
            yield from _parts(part)


def _is_word(resume: str | os.PathLike[str]) -> bool:
    """Tell whether it may be a slip of "auto" or "never", such as "Auto", "yes" or "always"."""
    return isinstance(resume, str) and resume.strip().isalpha()


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
