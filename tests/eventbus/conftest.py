"""Fixtures of the bus's own tests: a fresh bus and an emitter for each test."""

from __future__ import annotations

import pytest

from eventbus import Emitter, EventBus


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.fixture
def loop(bus: EventBus) -> Emitter:
    return bus.bind(sender="train")
