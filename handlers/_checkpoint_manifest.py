"""What a checkpoint says of itself: `manifest.json`, written last and read first.

The file is JSON with sorted keys and its own SHA-256 as the key `check`. It is accepted only if
writing what was read gives the very bytes that are there, so any change to it shows: a flipped bit,
a repeated key, trailing junk. The sums tell damage, not an attacker.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eventbus.shown import Shown

__all__ = [
    "FORMAT",
    "LARGEST_MANIFEST",
    "MANIFEST",
    "STATE",
    "DamageError",
    "Manifest",
    "Sum",
    "decode",
    "encode",
]

MANIFEST, STATE = "manifest.json", "state.pt"
"""The files of a checkpoint."""

FORMAT = 1
"""The version of the format that this code writes."""

LARGEST_MANIFEST = 4 * 1024**2
"""More bytes than this are not read: no manifest of ours comes near."""


class DamageError(ValueError):
    """What is there is not what was written."""


_OPTIONAL = {"best": None, "series": None, "whole": False}
"""What is not in the file where it is this."""


@dataclass(frozen=True)
class Sum:
    """The size, in bytes, and the SHA-256, in hexadecimal digits, of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The facts of one checkpoint.

    Attributes
    ----------
    id
        Random, unique to this save.
    epoch, step
        Counted from 1; None where the signal that it was saved on did not tell.
    metrics
        As the signal carried them.
    run_id, run
        The id and the name of the run that wrote it.
    saved_at
        UTC, ISO 8601. Only several `Checkpoint`s that resume compare theirs: the latest wins.
    versions
        Of eventbus, torch and Python.
    files
        Each file of the checkpoint but the manifest, by its plain name.
    best
        The `metric` by which the best checkpoint is kept, and the `mode`: "min" or "max"; None
        where none is. With `stale` it tells of other weights: this one is no candidate.
    series
        Random, one for all that a handler saves in one run.
    whole
        Whether nothing was left to do at its step, so that the end of the run need not be saved
        where no step comes after it.
    """

    id: str
    epoch: int | None
    step: int | None
    metrics: Mapping[str, float]
    run_id: str | None
    run: str | None
    saved_at: str
    versions: Mapping[str, str]
    files: Mapping[str, Sum] = field(default_factory=dict)
    best: Mapping[str, str] | None = None
    series: str | None = None
    whole: bool = False
    format: int = FORMAT

    @property
    def is_candidate(self) -> bool:
        """Whether its metrics are of its own weights, so that it may be the best."""
        return "stale" not in (self.best or {})


def encode(manifest: Manifest) -> bytes:
    """Write a manifest as JSON; NaN and the infinities, which JSON lacks, as text."""
    content = dict(vars(manifest))
    content["files"] = {name: vars(one) for name, one in manifest.files.items()}
    content["metrics"] = {key: _spelled(value) for key, value in manifest.metrics.items()}
    for name, default in _OPTIONAL.items():
        if content[name] == default:
            del content[name]
    content["check"] = hashlib.sha256(_dump(content)).hexdigest()
    return _dump(content)


@functools.lru_cache(maxsize=64)  # each save reads those of the last few again; all is read-only
def decode(data: bytes) -> Manifest:
    """Read what `encode` wrote, to the byte.

    Raises
    ------
    DamageError
        It is no manifest, or was changed.
    ValueError
        It is of a format that this version does not know.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"the manifest is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise DamageError("the manifest is not one of a checkpoint")
    if content["format"] != FORMAT:
        raise ValueError(
            f"the manifest is of format {content['format']}, and this version reads {FORMAT}; "
            f"it was written by eventbus {content.get('versions', {}).get('eventbus', '?')}"
        )
    return _verified(content, data)


def _verified(content: dict[str, Any], data: bytes) -> Manifest:
    content.pop("check", None)
    try:
        content["metrics"] = {key: float(value) for key, value in content["metrics"].items()}
        content["files"] = {_plain(name): Sum(**sums) for name, sums in content["files"].items()}
        manifest = Manifest(**{key: _shown(value) for key, value in content.items()})
        written = encode(manifest)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamageError(f"the manifest is damaged: {error}") from error
    if written != data:
        raise DamageError("the manifest is damaged: it does not match its own checksum")
    return manifest


def _shown(value: Any) -> Any:
    return Shown(value) if isinstance(value, dict) else value


def _plain(name: str) -> str:
    """Refuse a name that could lead out of the checkpoint's directory."""
    if name in ("", ".", "..", MANIFEST) or any(mark in name for mark in "/\\:\0"):
        raise ValueError(f"a file may not be named {name!r}")
    return name


def _spelled(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _dump(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=True)
    return text.encode("ascii") + b"\n"
