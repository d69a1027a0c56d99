"""Plot: a whole picture at any time, without a display."""

from __future__ import annotations

import math
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from eventbus import EventBus, every
from eventbus.handlers import Plot

from .reporting import finish_epochs, resume, run_child, start

pytest.importorskip("matplotlib")


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


def size_of(picture: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header; its end must be there too."""
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def texts_of(picture: Path) -> str:
    """All that an SVG says; matplotlib leaves each text as a comment beside its outline."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    root = ET.parse(picture, parser=parser).getroot()
    comments = [node for node in root.iter() if callable(node.tag)]
    return " ".join(node.text or "" for node in comments)


def test_a_png_is_drawn_when_it_is_due(bus: EventBus, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    bus.attach(Plot(path, when=every(2)))
    loop = start(bus)
    finish_epochs(loop, 1, 1)
    assert not path.exists()
    finish_epochs(loop, 2, 2)
    width, height = size_of(path)
    assert width > height > 0


def test_an_svg_names_the_metrics_of_all_epochs(bus: EventBus, tmp_path: Path) -> None:
    path = tmp_path / "{run_id}" / "curves.svg"
    bus.attach(Plot(path, when=every(3)))
    loop = start(bus, run_id="digits")
    finish_epochs(loop, 1, 2, val_loss=0.25)
    finish_epochs(loop, 3, 3, accuracy=0.5)
    texts = texts_of(tmp_path / "digits" / "curves.svg")
    assert all(name in texts for name in ("loss", "val_loss", "accuracy", "epoch"))


def test_the_end_of_a_run_draws_what_is_not_drawn_yet(bus: EventBus, tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    bus.attach(Plot(path, when=every(2)))
    loop = start(bus)
    finish_epochs(loop, 1, 2)
    finish_epochs(loop, 3, 3, late=1.0)
    assert "late" not in texts_of(path)
    loop.emit("run_closed", outcome="completed")
    assert "late" in texts_of(path)


def test_the_end_of_a_run_draws_nothing_twice(bus: EventBus, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    bus.attach(Plot(path, when=every(1)))
    loop = start(bus)
    finish_epochs(loop, 1, 1)
    path.unlink()
    loop.emit("run_closed", outcome="completed")
    assert not path.exists()


def test_a_run_without_epochs_draws_nothing(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(Plot(tmp_path / "curves.png"))
    start(bus).emit("run_closed", outcome="failed")
    assert list(tmp_path.iterdir()) == []


def test_the_picture_is_replaced_and_nothing_else_is_left(bus: EventBus, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    bus.attach(Plot(path, when=every(1)))
    loop = start(bus)
    finish_epochs(loop, 1, 1)
    before = path.stat().st_ino
    finish_epochs(loop, 2, 2)
    assert path.stat().st_ino != before
    assert list(tmp_path.iterdir()) == [path]


def test_a_resumed_run_keeps_its_earlier_curves(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(Plot(tmp_path / "before.svg", when=every(2)))
    finish_epochs(start(bus), 1, 2, early=1.0)
    state = dict(bus.emit("state_requested").state)
    again, path = EventBus(strict=True), tmp_path / "after.svg"
    again.attach(Plot(path, when=every(1)))
    finish_epochs(resume(again, state), 3, 3)
    assert "early" in texts_of(path)


def test_a_new_run_starts_new_curves(bus: EventBus, tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    bus.attach(Plot(path, when=every(1)))
    finish_epochs(start(bus), 1, 1, early=1.0)
    finish_epochs(start(bus), 1, 1)
    assert "early" not in texts_of(path)


def test_a_new_run_keeps_the_picture_of_the_run_before(bus: EventBus, tmp_path: Path) -> None:
    bus.attach(Plot(tmp_path / "curves.svg", when=every(1)))
    finish_epochs(start(bus), 1, 2, early=1.0)
    finish_epochs(start(bus), 1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.1.svg", "curves.svg"]
    assert "early" in texts_of(tmp_path / "curves.1.svg")


def test_two_runs_in_one_place_have_a_picture_each(bus: EventBus, tmp_path: Path) -> None:
    path, other = tmp_path / "curves.svg", EventBus(strict=True)
    for each in (bus, other):
        each.attach(Plot(path, when=every(1)))
    loop = start(bus)
    finish_epochs(loop, 1, 1, ours=0.5)
    theirs = start(other, run_id="other")
    for epoch in (2, 3):
        finish_epochs(theirs, epoch, epoch, theirs=0.5)
        finish_epochs(loop, epoch, epoch, ours=0.5)
    assert "theirs" in texts_of(path)
    assert "ours" in texts_of(tmp_path / "curves.1.svg").split()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_that_resumes_replaces_its_picture(bus: EventBus, tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    bus.attach(Plot(path, when=every(1)))
    finish_epochs(start(bus), 1, 2)
    again = EventBus(strict=True)
    again.attach(Plot(path, when=every(1)))
    finish_epochs(resume(again, dict(bus.emit("state_requested").state)), 3, 3)
    assert list(tmp_path.iterdir()) == [path]


def test_any_name_and_any_value_can_be_drawn(bus: EventBus, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    bus.attach(Plot(path, when=every(1)))
    names = ["$loss", "a_$b$_c", "_hidden", "^", "\\frac", "a\nb", "%", "<&>"]
    values = [math.nan, math.inf, -math.inf, 3e38, -1e308, 0.0, -0.0, 1e-320]
    finish_epochs(start(bus), 1, 1, **dict(zip(names, values, strict=True)))
    assert min(size_of(path)) > 0


def test_a_path_that_does_not_say_what_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ends in \.png.*got 'curves'"):
        Plot("curves")


WITHOUT_A_DISPLAY = """
import os, sys
os.environ.pop("DISPLAY", None)
os.environ["MPLBACKEND"] = "TkAgg"
from eventbus import EventBus, every
from eventbus.handlers import Plot
bus = EventBus(strict=True)
bus.attach(Plot(sys.argv[1], when=every(1)))
bus.emit("epoch_finished", epoch=1, step=1, metrics={"loss": 1.0})
assert "matplotlib.pyplot" not in sys.modules
"""


def test_it_draws_without_a_display_and_without_pyplot(tmp_path: Path) -> None:
    child = run_child(WITHOUT_A_DISPLAY, tmp_path / "curves.png")
    assert child.returncode == 0, child.stderr
    assert min(size_of(tmp_path / "curves.png")) > 0
