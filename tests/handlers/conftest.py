"""What the tests of all handlers share: a process that forks lives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .lives import Nursery, nursery


@pytest.fixture(scope="session")
def lives() -> Iterator[Nursery]:
    """Start it once, for all: it imports much."""
    with nursery() as started:
        yield started
