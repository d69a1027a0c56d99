"""Fixtures of the bus's own tests: a fresh bus and an emitter for each test."""

from __future__ import annotations

import pytest

from eventbus import Emitter, EventBus


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known when these tests are run alone."""
    config.addinivalue_line("markers", "slow: a long stress, not needed after each edit")


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.fixture
def loop(bus: EventBus) -> Emitter:
    return bus.bind(sender="train")
