"""Several ranks are resumed together, each with its own generators and its place in the data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, at_most_every, every
from eventbus.handlers import Checkpoint

from .trained_by_ranks import Barracks, Deed, Trained, barracks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Barracks]:
    with barracks() as one:
        yield one


BY_STEP: dict[str, Any] = {"sampler": "resumable", "saves": "batch_finished"}


@pytest.fixture(scope="module")
def whole_by_step(ranks: Barracks, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a training that saves after each step, and that nobody cut."""
    return ranks.train(tmp_path_factory.mktemp("whole"), **BY_STEP)


def saved(folder: Path) -> list[int]:
    """Return the steps of the checkpoints there are."""
    return sorted(int(path.name.split("-")[1]) for path in (folder / "saved").glob("step-*"))


def assert_equal(killed: Trained, whole: Trained) -> None:
    """Both ranks end bit for bit as those of a training that nobody cut."""
    for rank in (0, 1):
        one, other = killed.reports[rank], whole.reports[rank]
        assert (one.outcome, one.step) == ("completed", other.step), killed.logs
        assert one.weights == other.weights
        assert one.draws == other.draws
    assert whole.reports[0].draws != whole.reports[1].draws


@pytest.mark.parametrize(
    "sampler",
    [
        "resumable",
        pytest.param("distributed", marks=pytest.mark.slow),
        pytest.param("stateful", marks=pytest.mark.slow),
    ],
)
def test_ranks_that_were_preempted_within_an_epoch_end_as_if_they_never_were(
    sampler: str, ranks: Barracks, tmp_path: Path
) -> None:
    plan: dict[str, Any] = {"sampler": sampler, "batches": (6, 6), "saves": "epoch_finished"}
    whole = ranks.train(tmp_path / "whole", **plan)
    deeds = (Deed(1, "SIGTERM", step=2),)
    cut = ranks.train(tmp_path / "cut", deeds=deeds, **plan)
    assert cut.codes == [143, 143], cut.logs
    assert saved(tmp_path / "cut") == [3]
    resumed = ranks.train(tmp_path / "cut", **plan)
    assert [report.resumed_at for report in resumed.reports] == [3, 3]
    assert_equal(resumed, whole)


def test_ranks_without_their_own_share_end_elsewhere(ranks: Barracks, tmp_path: Path) -> None:
    plan: dict[str, Any] = {"sampler": "resumable", "batches": (6, 6), "saves": "epoch_finished"}
    whole = ranks.train(tmp_path / "whole", **plan)
    ranks.train(tmp_path / "cut", deeds=(Deed(1, "SIGTERM", step=2),), **plan)
    _give_all_the_share_of_rank_0(tmp_path / "cut" / "saved")
    resumed = ranks.train(tmp_path / "cut", **plan)
    with pytest.raises(AssertionError):
        assert_equal(resumed, whole)


def _give_all_the_share_of_rank_0(folder: Path) -> None:
    from eventbus.handlers._checkpoint_files import Folder, load_newest
    from eventbus.handlers._files import Files

    found, state = load_newest(folder, Files())
    state["ranks"] = [state["ranks"][0]] * 2
    Folder(folder, Files()).commit(found.manifest, state)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    "phase",
    ["batch_started", "backward_finished", "batch_finished", "state_requested", "checkpoint_saved"],
)
def test_a_rank_that_is_killed_leaves_checkpoints_from_which_both_go_on_together(
    phase: str, rank: int, ranks: Barracks, whole_by_step: Trained, tmp_path: Path
) -> None:
    if (phase, rank) == ("checkpoint_saved", 1):
        pytest.skip("rank 0 writes")
    killed = ranks.train(tmp_path / "cut", deeds=(Deed(rank, "SIGKILL", phase, 3),), **BY_STEP)
    assert killed.codes[rank] == -9
    survivor = killed.reports[1 - rank]
    assert killed.codes[1 - rank] == 1
    assert survivor.outcome == "failed", killed.logs  # it did not hang until it was put down
    resumed = ranks.train(tmp_path / "cut", **BY_STEP)
    assert len({report.resumed_at for report in resumed.reports}) == 1
    assert resumed.reports[0].resumed_at in (2, 3)
    assert_equal(resumed, whole_by_step)


@pytest.mark.slow
def test_rank_0_that_is_killed_as_it_writes_leaves_the_checkpoint_before(
    ranks: Barracks, whole_by_step: Trained, tmp_path: Path
) -> None:
    killed = ranks.train(tmp_path / "cut", second_save="SIGKILL", **BY_STEP)
    assert killed.codes == [-9, 1]
    assert killed.reports[1].error.startswith("RanksError: rank 1 at step 3 of epoch 1"), killed
    assert "rank 0 has gone or does not answer" in killed.reports[1].error
    assert saved(tmp_path / "cut") == [1]
    assert_equal(ranks.train(tmp_path / "cut", **BY_STEP), whole_by_step)


@pytest.mark.slow
def test_a_rank_that_raises_in_a_save_leaves_no_checkpoint_of_it(
    ranks: Barracks, tmp_path: Path
) -> None:
    deeds = (Deed(1, "raise", "state_requested", 3),)
    trained = ranks.train(tmp_path, saves="batch_finished", deeds=deeds)
    assert trained.codes == [1, 1]
    assert "rank 1 failed: ValueError: a bad step" in trained.reports[0].error
    assert saved(tmp_path) == [1, 2]


@pytest.mark.slow
def test_ranks_that_save_beside_the_training_are_resumed_together(
    ranks: Barracks, tmp_path: Path
) -> None:
    plan: dict[str, Any] = {"sampler": "resumable", "saves": "batch_finished", "asynchronous": True}
    whole = ranks.train(tmp_path / "whole", **plan)
    ranks.train(tmp_path / "cut", deeds=(Deed(1, "SIGTERM", step=2),), **plan)
    resumed = ranks.train(tmp_path / "cut", **plan)
    assert_equal(resumed, whole)


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_ranks_and_with_more_and_says_what_begins_anew(
    ranks: Barracks, tmp_path: Path
) -> None:
    plan: dict[str, Any] = {"sampler": "resumable", "saves": "epoch_finished"}
    ranks.train(tmp_path, epochs=3, deeds=(Deed(0, "SIGTERM", step=6),), **plan)
    assert saved(tmp_path) == [4, 7]
    alone = ranks.train(tmp_path, ranks=1, epochs=2, **plan)
    assert alone.codes == [0]
    assert alone.reports[0].resumed_at == 7
    assert alone.reports[0].step == 11  # the second epoch again, from its beginning
    assert "the checkpoint is of 2 ranks and this run of 1" in alone.logs
    together = ranks.train(tmp_path, epochs=3, **plan)
    assert together.codes == [0, 0]
    assert [report.resumed_at for report in together.reports] == [11, 11]
    assert together.reports[0].weights == together.reports[1].weights
    assert together.reports[0].draws != together.reports[1].draws
    assert "the checkpoint is of 1 rank and this run of 2" in together.logs


# -- time, which passes on each rank by itself


class Ranks:
    """What `sys.modules` has as torch.distributed on one of several ranks."""

    @staticmethod
    def is_available() -> bool:
        return True

    is_initialized = is_available

    @staticmethod
    def get_world_size() -> int:
        return 2

    @staticmethod
    def get_rank() -> int:
        return 0


def test_a_checkpoint_by_time_is_refused_where_ranks_save_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch.distributed", Ranks())
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, when=every(10) & at_most_every(60)))
    with pytest.raises(ValueError, match=r"every\(10\) & at_most_every\(60\) is due at another"):
        bus.bind(sender="train").emit("run_opened")


def test_a_checkpoint_by_time_is_a_process_s_own_where_it_is_alone(tmp_path: Path) -> None:
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, when=at_most_every(60)))
    assert bus.bind(sender="train").emit("run_opened").restored is None
