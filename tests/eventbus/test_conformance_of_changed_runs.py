"""Whichever emission of a right run is left out, doubled or swapped: it is noticed."""

from __future__ import annotations

import pytest

from .transcribing import Emitted, full_run, watched

RUN = full_run()
PLACES = range(len(RUN))

# What makes another right run, so that nobody can notice.
MAY_BE_LEFT_OUT = {
    "validation_batch_finished",  # they carry no count
}
MAY_BE_DOUBLED = {
    "validation_batch_finished",
    "loader_opened",  # a pass over an empty loader comes before
}
MAY_BE_SWAPPED = {
    ("batch_started", "batch_loaded"),  # all micro-batches may be loaded before the start
}


def is_last_of_epoch(at: int) -> bool:
    """Whether no batch of the epoch is loaded after this one: no count tells that it is missing."""
    names = [name for name, _ in RUN[at + 1 :]]
    return RUN[at][0] == "batch_loaded" and (
        "batch_loaded" not in names[: names.index("epoch_finished")]
    )


def title(at: int) -> str:
    return f"{at}-{RUN[at][0]}"


def noticed(script: list[Emitted]) -> bool:
    return watched(script).violations != ()


@pytest.mark.parametrize("at", PLACES, ids=title)
def test_an_emission_that_is_left_out_is_noticed(at: int) -> None:
    is_legitimate = RUN[at][0] in MAY_BE_LEFT_OUT or is_last_of_epoch(at)
    assert noticed([*RUN[:at], *RUN[at + 1 :]]) != is_legitimate


@pytest.mark.parametrize("at", PLACES, ids=title)
def test_an_emission_that_comes_twice_is_noticed(at: int) -> None:
    assert noticed([*RUN[: at + 1], *RUN[at:]]) != (RUN[at][0] in MAY_BE_DOUBLED)


@pytest.mark.parametrize("at", PLACES[:-1], ids=title)
def test_two_emissions_that_are_swapped_are_noticed(at: int) -> None:
    first, second = RUN[at], RUN[at + 1]
    is_legitimate = (first[0], second[0]) in MAY_BE_SWAPPED
    assert noticed([*RUN[:at], second, first, *RUN[at + 2 :]]) != is_legitimate
