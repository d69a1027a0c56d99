"""Several ranks: what is answered on one takes effect on all at one safe point; nobody hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.loops import Run

from .trained_by_ranks import Barracks, Deed, Trained, barracks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


@pytest.fixture(scope="module")
def ranks() -> Iterator[Barracks]:
    with barracks() as one:
        yield one


def assert_alike(trained: Trained, *but: str) -> None:
    """Both ranks came to their end in the same way, with the same weights."""
    one, other = trained.reports
    for name in {"outcome", "step", "stop", "weights"} - set(but):
        assert getattr(one, name) == getattr(other, name), trained.logs
    assert one.outcome is not None, trained.logs


# -- answers


def test_sigterm_on_one_rank_has_both_save_the_same_step_and_leave_with_143(
    ranks: Barracks, tmp_path: Path
) -> None:
    deeds = (Deed(1, "SIGTERM", step=2),)
    trained = ranks.train(tmp_path, batches=(9, 9), saves="epoch_finished", deeds=deeds)
    assert trained.codes == [143, 143]
    assert_alike(trained)
    assert trained.reports[0].stop == ["SIGTERM", "Preemption on rank 1"]
    assert trained.reports[0].step == 3  # one step later
    assert [path.name for path in (tmp_path / "saved").glob("step-*")] == ["step-00000003-0001"]


def test_a_stop_is_told_on_every_rank_with_the_rank_that_gave_it(
    ranks: Barracks, tmp_path: Path
) -> None:
    trained = ranks.train(tmp_path, deeds=(Deed(1, "stop", on="epoch_finished"),))
    assert trained.codes == [7, 7]
    assert_alike(trained)
    assert trained.told(0, "stop_requested") == ["stop_requested 4 enough by stop on rank 1"]
    assert trained.told(1, "stop_requested") == ["stop_requested 4 enough by stop"]
    assert trained.told(0, "epoch_started") == ["epoch_started 0"]


def test_ranks_that_stop_for_two_reasons_agree_on_the_first_and_save_together(
    ranks: Barracks, tmp_path: Path
) -> None:
    deeds = (Deed(0, "stop", step=2), Deed(1, "SIGTERM", step=2))
    trained = ranks.train(tmp_path, batches=(9, 9), saves="epoch_finished", deeds=deeds)
    assert trained.codes == [7, 7], trained.logs
    assert_alike(trained)
    assert trained.reports[1].stop == ["enough", "stop on rank 0"]
    for rank in (0, 1):
        assert sorted(line.split()[2] for line in trained.told(rank, "stop_requested")) == [
            "SIGTERM",
            "enough",
        ]
    assert [path.name for path in (tmp_path / "saved").glob("step-*")] == ["step-00000003-0001"]


def test_a_stop_epoch_on_one_rank_ends_the_epoch_on_both_after_the_same_step(
    ranks: Barracks, tmp_path: Path
) -> None:
    deeds = (Deed(0, "stop epoch", step=2),)
    trained = ranks.train(tmp_path, batches=(7, 7), deeds=deeds)
    assert_alike(trained)
    for rank in (0, 1):
        ends = trained.told(rank, "epoch_finished", "epoch_interrupted")
        assert ends == ["epoch_finished 3", "epoch_finished 10"]


@pytest.mark.parametrize("on", ["batch_started", "backward_finished"])
def test_a_batch_that_one_rank_skips_is_a_step_that_no_rank_takes(
    on: str, ranks: Barracks, tmp_path: Path
) -> None:
    trained = ranks.train(tmp_path, deeds=(Deed(1, "skip", on=on, step=3),))
    assert_alike(trained)
    assert trained.reports[0].step == 7
    for rank in (0, 1):
        assert trained.told(rank, "batch_skipped") == ["batch_skipped 3 an odd batch"]


def test_a_skip_in_a_loop_that_cannot_heed_it_is_an_error_on_both_ranks(
    ranks: Barracks, tmp_path: Path
) -> None:
    deeds = (Deed(1, "skip", on="batch_started"),)
    trained = ranks.train(tmp_path, backward=False, deeds=deeds)
    assert trained.codes == [1, 1]
    assert "skip on rank 1 answered SkipBatch('an odd batch')" in trained.reports[1].error
    told = [trained.reports[0].error, *trained.reports[0].notes]
    assert any("`backward_finished`, which this loop does not emit" in text for text in told)


def test_rank_0_may_validate_alone_and_stop_there(ranks: Barracks, tmp_path: Path) -> None:
    deeds = (Deed(0, "stop", on="validation_started", step=1),)
    trained = ranks.train(tmp_path, validates=(0,), deeds=deeds)
    assert trained.codes == [7, 7]
    assert_alike(trained)
    assert trained.told(0, "validation_done") == ["validation_done 4"]  # it runs to its end


def test_ranks_save_together_though_one_of_them_validates_in_its_steps(
    ranks: Barracks, tmp_path: Path
) -> None:
    plan: dict[str, Any] = {"validates": (0,), "in_body": True, "saves": "batch_finished"}
    trained = ranks.train(tmp_path, **plan)
    assert trained.codes == [0, 0]
    assert_alike(trained)
    assert trained.told(0, "validation_done") == [f"validation_done {n}" for n in range(1, 9)]


def test_a_stop_in_the_last_step_of_an_epoch_leaves_out_the_validation_of_rank_0(
    ranks: Barracks, tmp_path: Path
) -> None:
    deeds = (Deed(1, "stop", step=4),)
    trained = ranks.train(tmp_path, validates=(0,), saves="epoch_finished", deeds=deeds)
    assert_alike(trained)
    for rank in (0, 1):  # rank 1, which does not validate, calls the epoch interrupted, too
        ends = trained.told(rank, "validation_done", "epoch_finished", "epoch_interrupted")
        assert ends == ["epoch_interrupted 4 enough"]


def test_observers_on_rank_0_alone_do_nothing_that_others_must_take_part_in(
    ranks: Barracks, tmp_path: Path
) -> None:
    trained = ranks.train(tmp_path, validates=(0,), observed=True)
    assert trained.codes == [0, 0], trained.logs
    assert_alike(trained)
    assert not (tmp_path / "1").exists()
    assert (tmp_path / "0" / "epochs.csv").exists()


# -- what would be a hang


def test_a_rank_whose_handler_raises_tells_the_other_one(ranks: Barracks, tmp_path: Path) -> None:
    trained = ranks.train(tmp_path, deeds=(Deed(1, "raise", on="epoch_finished"),))
    assert trained.codes == [1, 1]
    assert trained.reports[1].error == "ValueError: a bad step"
    assert trained.reports[0].error == "RanksError: rank 1 failed: ValueError: a bad step"


def test_a_disk_that_is_full_on_rank_0_is_an_error_on_every_rank(
    ranks: Barracks, tmp_path: Path
) -> None:
    trained = ranks.train(tmp_path, saves="batch_finished", second_save="full disk")
    assert trained.codes == [1, 1]
    assert "No space left on device" in trained.reports[0].error
    assert "rank 0 failed: CheckpointError: no checkpoint was written" in trained.reports[1].error
    assert trained.reports[1].step == 2


@pytest.mark.parametrize(
    ("plan", "places"),
    [
        ({"saves": "epoch_finished", "savers": (0,)}, ["rank 0 at a checkpoint", "beginning of"]),
        ({"inner": (0,)}, ["(run 'inner', step 0)", "rank 1 at the end of"]),
        ({"batches": (4, 3)}, ["rank 0 has 4, rank 1 has 3"]),
    ],
    ids=["saves alone", "opens alone", "has fewer batches"],
)
def test_a_rank_that_does_what_the_other_does_not_is_an_error_that_names_both_places(
    plan: dict[str, Any], places: list[str], ranks: Barracks, tmp_path: Path
) -> None:
    trained = ranks.train(tmp_path, **plan)
    assert trained.codes == [1, 1]
    for report in trained.reports:
        assert report.error.startswith("RanksError: the ")
        assert all(place in report.error for place in places), report.error


@pytest.mark.slow  # for as long as the group's timeout
def test_a_rank_that_hangs_is_named_after_the_timeout_of_the_group(
    ranks: Barracks, tmp_path: Path
) -> None:
    deeds = (Deed(1, "hang", on="epoch_finished"),)
    trained = ranks.train(tmp_path, group_timeout_s=3, deeds=deeds)
    assert trained.codes == [1, -signal.SIGALRM]
    error = trained.reports[0].error
    place = "rank 0 at the beginning of epoch 2 (run 'train', step 4)"
    assert error.startswith(f"RanksError: {place}: ")
    assert "rank 1 has gone or does not answer (" in error


def test_ctrl_c_on_one_rank_ends_the_other_one_too(ranks: Barracks, tmp_path: Path) -> None:
    trained = ranks.train(tmp_path, deeds=(Deed(1, "interrupt", on="epoch_finished"),))
    assert trained.codes == [1, 1]
    assert trained.reports[0].error == "RanksError: rank 1 failed: KeyboardInterrupt"


def test_a_run_goes_over_the_group_that_it_is_given(ranks: Barracks, tmp_path: Path) -> None:
    deeds = (Deed(1, "stop", step=1),)
    trained = ranks.train(tmp_path, group_timeout_s=60, deeds=deeds)
    assert trained.codes == [7, 7]
    assert_alike(trained)


def test_a_run_of_one_rank_alone_waits_for_nobody(ranks: Barracks, tmp_path: Path) -> None:
    trained = ranks.train(tmp_path, wish="alone", inner=(0,))
    assert trained.codes == [0, 0], trained.logs
    assert_alike(trained)


def test_runs_inside_others_stop_with_the_outer_one_on_all_ranks(
    ranks: Barracks, tmp_path: Path
) -> None:
    deeds = (Deed(1, "SIGTERM", step=1, sender="inner"),)
    trained = ranks.train(tmp_path, inner=(0, 1), deeds=deeds)
    assert trained.codes == [143, 143]
    assert_alike(trained)
    assert [report.inner for report in trained.reports] == [["stopped after 2"]] * 2
    assert trained.reports[0].stop == ["SIGTERM", "Preemption on rank 1"]


def test_data_without_a_length_ends_on_all_ranks_where_it_ends_on_one(
    ranks: Barracks, tmp_path: Path
) -> None:
    trained = ranks.train(tmp_path, batches=(4, 3), sized=False)
    assert trained.codes == [0, 0], trained.logs
    assert_alike(trained)
    assert trained.reports[0].step == 6


# -- arguments


@pytest.mark.parametrize("wish", ["both", None, 2])
def test_a_run_refuses_other_ways_to_go_with_other_ranks(wish: Any) -> None:
    with pytest.raises(TypeError, match=r"ranks= takes 'agree', 'alone' or a group of processes"):
        Run(EventBus(), ranks=wish)
