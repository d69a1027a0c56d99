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


@pytest.fixture(autouse=True)
def _short_wait_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill workers of an iterator that is dropped: torchdata's do not end in its 5 s either."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.3)
