"""Several checkpoint handlers on one run: what each may delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eventbus import EventBus, every
from eventbus.handlers import Checkpoint

from .hand_loop import Training, epochs_in


def lived(
    directories: dict[Path, dict[str, Any]], epochs: int = 6, fail_after: int | None = None
) -> Training:
    """Train in a process of its own, with a handler for each directory."""
    bus = EventBus(strict=True)
    for directory, arguments in directories.items():
        checkpoint = Checkpoint(directory, best=None, **arguments)
        bus.attach(checkpoint, name=directory.name)
    return Training(bus).run(epochs, fail_after=fail_after)


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
