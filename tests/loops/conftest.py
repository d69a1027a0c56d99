"""Fixtures of the loops' tests: a fresh bus, and a transcript of all that is emitted on it."""

from __future__ import annotations

import pytest

from eventbus import EventBus

from .transcripts import Transcript


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.fixture
def transcript(bus: EventBus) -> Transcript:
    return Transcript(bus)
