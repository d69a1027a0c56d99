"""`handlers_in_a_module.py`: what is marked is attached, and it decides, alters and reports."""

from __future__ import annotations

import re

import pytest

from .running import run_example


@pytest.fixture(scope="module")
def said() -> str:
    return run_example("handlers_in_a_module")


def test_the_marked_functions_are_attached_and_no_other(said: str) -> None:
    attached = re.findall(r"my_handlers\.(\w+)", said)
    assert attached == [
        "blur",
        "clip_gradients",
        "refuse_nonsense",
        "good_enough",
        "print_epoch",
        "print_end",
    ]


def test_the_handlers_are_called_when_due_and_end_the_run(said: str) -> None:
    printed = [int(epoch) for epoch in re.findall(r"^epoch +(\d+):", said, re.MULTILINE)]
    ended = re.search(r"^ended after (\d+) epochs: 99 % are right$", said, re.MULTILINE)
    assert ended is not None
    assert printed == list(range(2, int(ended[1]) + 1, 2))


def test_the_module_is_detached_whole(said: str) -> None:
    assert said.splitlines()[-1] == "detached: <EventBus: 0 subscriptions>"
