"""Several checkpoint handlers on one run: which restores it, and what each may delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus, Priority, every
from eventbus.handlers import Checkpoint
from eventbus.handlers.checkpoint import CheckpointError

from .hand_loop import Training, epochs_in, train


def lived(
    directories: dict[Path, dict[str, Any]], epochs: int = 6, fail_after: int | None = None
) -> Training:
    """Train in a process of its own, with a handler for each directory."""
    bus = EventBus(strict=True)
    for directory, arguments in directories.items():
        checkpoint = Checkpoint(directory, best=None, **arguments)
        bus.attach(checkpoint, name=directory.name)
    return Training(bus).run(epochs, fail_after=fail_after)


# -- which restores


@pytest.mark.parametrize("names", [("often", "rarely"), ("rarely", "often")])
def test_run_goes_on_from_what_any_of_its_handlers_saved_last(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    how = {"often": {"when": every(1)}, "rarely": {"when": every(2)}}
    directories = {tmp_path / name: {**how[name], "resume": "auto"} for name in names}
    lived(directories, fail_after=3)
    resumed = lived(directories, fail_after=4)
    assert resumed.resumed_from == str(tmp_path / "often" / "step-00000030-0003")
    assert resumed.epoch == 4


def test_priority_that_is_given_to_attach_leaves_it_to_the_newest_to_restore(
    tmp_path: Path,
) -> None:
    lived({tmp_path / "rarely": {"when": every(2)}, tmp_path / "often": {}}, fail_after=3)
    bus, restored = EventBus(), []
    for name in ("rarely", "often"):
        checkpoint = Checkpoint(tmp_path / name, resume="auto")
        bus.attach(checkpoint, name=name, priority=Priority.PERSIST - 50)
    bus.on("state_restored")(lambda path: restored.append(path))
    Training(bus).run(4)
    assert restored == [str(tmp_path / "often" / "step-00000030-0003")]


def test_run_goes_on_from_the_newest_of_three(tmp_path: Path) -> None:
    directories = {tmp_path / f"every-{n}": {"when": every(n), "resume": "auto"} for n in (3, 2, 5)}
    lived(directories, fail_after=4)
    resumed = lived(directories)
    assert resumed.resumed_from == str(tmp_path / "every-2" / "step-00000040-0002")


def test_two_handlers_of_one_directory_restore_once(tmp_path: Path) -> None:
    train(tmp_path, epochs=2)
    bus, restored = EventBus(), []
    for name in ("one", "other"):
        bus.attach(Checkpoint(tmp_path, resume="auto"), name=name)
    bus.on("state_restored")(lambda path: restored.append(path))
    Training(bus).run(3)
    assert restored == [str(tmp_path / "step-00000020-0002")]


@pytest.mark.parametrize("is_first", [True, False])
def test_path_that_was_given_comes_before_what_is_newer(tmp_path: Path, is_first: bool) -> None:
    directories: dict[Path, dict[str, Any]] = {tmp_path / "last": {"resume": "auto"}}
    lived({**directories, tmp_path / "old": {}}, fail_after=3)
    given = tmp_path / "old" / "step-00000020-0002"
    new = {tmp_path / "new": {"resume": given}}
    both = {**new, **directories} if is_first else {**directories, **new}
    assert lived(both).resumed_from == str(given)


def test_two_paths_that_differ_are_an_error(tmp_path: Path) -> None:
    lived({tmp_path / "a": {}, tmp_path / "b": {}}, epochs=2)
    two = {tmp_path / name: {"resume": tmp_path / name} for name in ("a", "b")}
    with pytest.raises(CheckpointError, match=r"from .*a.step-.* and from .*b.step-.* resume="):
        lived(two)


def test_nothing_stays_subscribed_once_the_run_is_open(tmp_path: Path) -> None:
    train(tmp_path, epochs=2)
    bus = EventBus()
    bus.attach(Checkpoint(tmp_path, resume="auto"))
    before = len(bus.subscriptions)
    bus.bind(sender="train").emit("run_opened")
    assert len(bus.subscriptions) == before


# -- what may be deleted


def test_handler_that_resumes_through_another_keeps_no_more_than_it_was_told(
    tmp_path: Path,
) -> None:
    directories: dict[Path, dict[str, Any]] = {
        tmp_path / "last": {"when": every(2), "resume": "auto", "keep": 1},
        tmp_path / "all": {"keep": 1},
    }
    for cut in (3, 5, 7, None):
        lived(directories, 8, fail_after=cut)
        assert epochs_in(tmp_path / "all") == [cut or 8]
    assert epochs_in(tmp_path / "last") == [8]


def test_runs_that_go_on_from_one_checkpoint_leave_each_other_alone(tmp_path: Path) -> None:
    all_of_them = tmp_path / "all"
    lived({tmp_path / "base": {"when": every(2)}, all_of_them: {"keep": 1}}, fail_after=3)
    for name in ("one", "other"):
        lived(
            {tmp_path / name: {"resume": tmp_path / "base"}, all_of_them: {"keep": 1}}, fail_after=4
        )
    assert epochs_in(all_of_them) == [4, 4]


def test_next_run_on_the_bus_hands_on_nothing_of_the_one_before(tmp_path: Path) -> None:
    bus, own = EventBus(), Checkpoint(tmp_path / "own", best=None)
    bus.attach(own, name="own")
    Training(bus).run(2)
    bus.bind(sender="train").emit("run_opened")
    assert own.state_dict()["own"] == []
