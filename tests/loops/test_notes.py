"""What ranks leave for each other in a store."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]  # torch exports it untold

from eventbus.loops._notes import Notes
from eventbus.testing import FakeClock


class Gone:
    """A store whose keeper has died."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*arguments: Any) -> None:
            raise RuntimeError("Broken pipe")

        return refuse


def pair(store: Any = None) -> list[Notes]:
    store = HashStore() if store is None else store
    clock = FakeClock()
    return [Notes(store, rank, (0, 1), monotonic=clock, pause=clock.advance) for rank in (0, 1)]


def test_a_failure_is_known_to_the_others_and_the_first_one_stays() -> None:
    zero, one = pair()
    assert zero.failure() is None
    one.leave("ValueError: bad")
    zero.leave("RanksError: the other")
    assert zero.failure() == "rank 1 failed: ValueError: bad"
    assert one.failure() is None
    with pytest.raises(LookupError, match="rank 1 failed: ValueError: bad"):
        zero.raise_failure(LookupError)


def test_a_rank_that_gives_no_sign_of_life_is_named() -> None:
    zero, one = pair()
    assert zero.missing() == [1]
    assert one.missing() == []


def test_a_run_that_one_rank_opens_says_for_whom_it_waits_and_gives_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    zero, _ = pair()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(TimeoutError, match="rank 0 opens a Run and waits for rank 1: all ranks"),
    ):
        zero.await_all()
    assert "one of a single rank says ranks='alone'" in caplog.text


def test_a_run_that_all_ranks_open_goes_on_at_once(caplog: pytest.LogCaptureFixture) -> None:
    zero, one = pair()
    with pytest.raises(TimeoutError):
        zero.await_all()
    caplog.clear()
    one.await_all()
    assert not caplog.records


def test_a_store_that_is_gone_tells_nothing_and_raises_nothing() -> None:
    zero, _ = pair(Gone())
    zero.leave("ValueError: bad")
    assert zero.failure() is None
    assert zero.missing() == []
