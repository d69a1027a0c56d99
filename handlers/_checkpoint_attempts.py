"""The names of unfinished work in a directory of checkpoints, and whose it is.

A name tells the machine, the process and a token of its own, since another thread may be busy with
the same, and a process after it may have the same number. Work is abandoned when its process is
gone, or failed.
Containers are machines of their own: they number their processes anew, whatever their host's name.
What one of the same name has left is abandoned when other things were written a day after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

__all__ = ["attempt_name", "is_abandoned", "under_way"]

IDLE_S = 24 * 3600.0

_PATTERN = re.compile(
    r"\.unfinished-.+?-([0-9a-f]{8})(?:-([0-9a-f]{8}))?-([1-9]\d{0,8})-([0-9a-f]{8})"
)


def _machine() -> str:
    try:
        numbering = str(Path("/proc/self/ns/pid").readlink())  # Linux's
    except OSError:
        numbering = ""
    return "-".join(
        hashlib.sha256(part.encode()).hexdigest()[:8] for part in (socket.gethostname(), numbering)
    )


_HOST = _machine()
_under_way: set[str] = set()  # names of this process's work, in any thread


def attempt_name(what: str) -> str:
    """Return a name for unfinished work of this process; another one each time."""
    return f".unfinished-{what}-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def under_way(name: str) -> Iterator[None]:
    """Keep a name from being taken for abandoned while the `with` block runs."""
    _under_way.add(name)
    try:
        yield
    finally:
        _under_way.discard(name)


def is_abandoned(name: str, idle_s: float) -> bool:
    """Tell whether this is unfinished work that nobody can still be busy with.

    Work of another machine may be alive for all that can be seen from here, so it never is.

    Parameters
    ----------
    idle_s
        By how much it is older than what was written last beside it, in seconds.
    """
    match = _PATTERN.fullmatch(name)
    own_host, own_numbering = _HOST.split("-")
    if match is None or match[1] != own_host or name in _under_way:
        return False
    if match[2] != own_numbering:
        return idle_s > IDLE_S
    pid = int(match[3])
    return pid == os.getpid() or not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # there is no harmless signal to ask with
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
