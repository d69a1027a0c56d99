"""The simulated device, built once for a session; the package takes it for one like CUDA."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventbus import EventBus, arrival

from .device import NAME, Device, can_be_built, load


@pytest.fixture(scope="session")
def unknown_device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """Return the device, of a kind that the package does not know."""
    if not can_be_built():
        pytest.skip("needs a C++ compiler and ninja")
    load(tmp_path_factory.mktemp("device"))
    return Device()


@pytest.fixture
def device(unknown_device: Device, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setattr(arrival, "LATE", arrival.LATE | {NAME})
    yield unknown_device
    unknown_device.finish()


@pytest.fixture
def careless(unknown_device: Device) -> Iterator[Device]:
    """Return the device, of a kind that the package does not know, and late as MPS is."""
    unknown_device.be_careless(True)
    yield unknown_device
    unknown_device.be_careless(False)
    unknown_device.finish()


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)
