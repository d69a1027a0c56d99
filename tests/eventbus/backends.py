"""Fake backends for background handlers: they answer when a test lets them, or never."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from eventbus import Background, EventBus

PATIENCE_S = 30.0
"""How long a test waits for another thread before it fails; none should come near."""

QUICK = Background(timeout_s=0.05)
"""For a backend that does not answer: closing gives up soon."""


class Backend:
    """Blocks each call until `release`, then for `latency_s`; None: for ever."""

    def __init__(self, latency_s: float | None = 0.0) -> None:
        self.began = threading.Event()
        self.taken: list[Any] = []
        self.answered: list[Any] = []
        self._latency_s = latency_s
        self._go = threading.Event()
        self._answer = threading.Event()

    def send(self, item: Any) -> None:
        self.taken.append(item)
        self.began.set()
        self._go.wait(PATIENCE_S)
        self._answer.wait(self._latency_s)
        self.answered.append(item)

    def release(self) -> None:
        self._go.set()

    def destroy(self) -> None:
        """Let every call return, so that no thread outlives the test."""
        self._go.set()
        self._answer.set()


def began(event: threading.Event) -> bool:
    return event.wait(PATIENCE_S)


def settle(bus: EventBus) -> None:
    """Wait until every background handler has done what it was given."""
    for worker in bus.registry.workers:
        worker.settle()


def threads_of(name: str) -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == f"eventbus {name}"]


def is_ended(thread: threading.Thread) -> bool:
    thread.join(PATIENCE_S)
    return not thread.is_alive()


def noting(calls: list[Any]) -> Callable[[int], None]:
    def note(step: int) -> None:
        calls.append(step)

    return note
