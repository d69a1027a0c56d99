"""ProgressBar: what it shows, how seldom it draws, and terminals that go away."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from eventbus import Emitter, EventBus
from eventbus.handlers import ProgressBar
from eventbus.loops import Run

from .reporting import Clock, CountedMetrics, run_child, start

rich_console = pytest.importorskip("rich.console")


class Terminal(io.StringIO):
    """A stream that says it is a terminal and keeps what was drawn."""

    def isatty(self) -> bool:
        return True

    @property
    def frames(self) -> list[str]:
        """What each redraw showed."""
        return [part for part in self.getvalue().split("\r") if "epoch" in part]


@pytest.fixture
def bus() -> EventBus:
    return EventBus(strict=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def console_on(stream: io.StringIO, **options: Any) -> Any:
    wanted = {"force_terminal": True, "width": 200, "color_system": None, **options}
    return rich_console.Console(file=stream, **wanted)


@pytest.fixture
def bar(bus: EventBus, clock: Clock, terminal: Terminal) -> Iterator[ProgressBar]:
    bar = ProgressBar(console=console_on(terminal), monotonic=clock)
    bus.attach(bar)
    yield bar
    bar.close()


def steps(loop: Emitter, clock: Clock, first: int, last: int, seconds: float = 1.0) -> None:
    for step in range(first, last + 1):
        clock.now += seconds
        loop.emit("batch_finished", epoch=1, step=step, metrics={"loss": 1 / step})


# -- what it shows


@pytest.mark.usefixtures("bar")
def test_it_shows_epochs_steps_metrics_and_the_time_left(
    bus: EventBus, clock: Clock, terminal: Terminal
) -> None:
    loop = start(bus, epochs=4)
    loop.emit("epoch_started", epoch=1, step=0)
    loop.transform("loader_opened", [0] * 10, epoch=1, step=0)
    loop.transform("batch_loaded", [0], epoch=1, step=1, batch_index=5)
    steps(loop, clock, 1, 5, seconds=6)
    frame = terminal.frames[-1]
    assert "epoch 1/4" in frame
    assert "step 5" in frame
    assert "loss 0.2" in frame
    assert "eta 3:30" in frame


@pytest.mark.usefixtures("bar")
def test_it_shows_the_steps_of_a_run_without_epochs(
    bus: EventBus, clock: Clock, terminal: Terminal
) -> None:
    loop = start(bus, steps=20)
    steps(loop, clock, 1, 10)
    assert "step 10/20" in terminal.frames[-1]
    assert terminal.frames[-1].count("━") == 12  # half of the bar


@pytest.mark.usefixtures("bar")
def test_it_leaves_the_epoch_out_where_the_loop_has_none(
    bus: EventBus, clock: Clock, terminal: Terminal
) -> None:
    with Run(bus) as run:
        for step in run.steps(4):
            clock.now += 1
            run.report(loss=1 / step)
    shown = terminal.getvalue()
    assert "step 4/4  in 0:04" in shown
    assert "epoch" not in shown


@pytest.mark.usefixtures("bar")
def test_the_second_epoch_is_as_long_as_the_first(
    bus: EventBus, clock: Clock, terminal: Terminal
) -> None:
    loop = start(bus)
    loop.emit("epoch_started", epoch=1, step=0)
    steps(loop, clock, 1, 8)
    loop.emit("epoch_finished", epoch=1, step=8)
    loop.emit("epoch_started", epoch=2, step=8)
    clock.now += 1
    loop.emit("batch_finished", epoch=2, step=12)
    assert terminal.frames[-1].count("━") == 12


@pytest.mark.usefixtures("bar")
def test_it_shows_the_validation_under_way_and_then_its_result(
    bus: EventBus, clock: Clock, terminal: Terminal
) -> None:
    loop = start(bus, epochs=1)
    counts = {"name": "val", "round": 1, "epoch": 1, "step": 5}
    loop.emit("epoch_started", epoch=1, step=0)
    steps(loop, clock, 1, 5)
    loop.emit("validation_started", **counts)
    for _ in range(3):
        clock.now += 1
        loop.emit("validation_batch_finished", **counts)
    assert "val 3" in terminal.frames[-1]
    clock.now += 1
    loop.emit("validation_done", **counts, metrics={"val_loss": 0.125})
    assert "val_loss 0.125" in terminal.frames[-1]
    assert "loss 0.2 " in terminal.frames[-1]
    assert "val 3" not in terminal.frames[-1]


@pytest.mark.usefixtures("bar")
def test_it_says_that_the_run_is_about_to_stop(
    bus: EventBus, clock: Clock, terminal: Terminal
) -> None:
    loop = start(bus, epochs=1)
    loop.emit("stop_requested", reason="loss is [not] finite")
    steps(loop, clock, 1, 1)
    assert "stopping: loss is [not] finite" in terminal.frames[-1]


@pytest.mark.usefixtures("bar")
def test_the_end_shows_the_last_metrics_and_how_long_it_took(
    bus: EventBus, clock: Clock, terminal: Terminal
) -> None:
    loop = start(bus, epochs=1)
    loop.emit("epoch_started", epoch=1, step=0)
    steps(loop, clock, 1, 1, seconds=61)
    loop.emit("epoch_finished", epoch=1, step=1, metrics={"val_loss": 0.75})
    loop.emit("run_closed", outcome="completed")
    assert "val_loss 0.75" in terminal.frames[-1]
    assert "in 1:01" in terminal.frames[-1]
    assert terminal.getvalue().endswith("\n\x1b[?25h")  # and gives the cursor back


# -- what it costs


@pytest.mark.usefixtures("bar")
def test_between_redraws_no_metric_is_read_and_nothing_is_written(
    bus: EventBus, clock: Clock, terminal: Terminal
) -> None:
    metrics = CountedMetrics(loss=1.0)
    loop = start(bus, epochs=1)
    loop.emit("epoch_started", epoch=1, step=0)
    loop.emit("batch_finished", epoch=1, step=1, metrics=metrics)
    reads, written = metrics.reads, terminal.getvalue()
    for step in range(2, 100):
        clock.now += 0.001
        loop.emit("batch_finished", epoch=1, step=step, metrics=metrics)
        loop.emit("validation_batch_finished", name="val", round=1, epoch=1, step=step)
    assert (metrics.reads, terminal.getvalue()) == (reads, written)


@pytest.mark.parametrize("per_s", [10, 2])
def test_it_is_redrawn_so_many_times_a_second_at_most(
    bus: EventBus, clock: Clock, terminal: Terminal, per_s: int
) -> None:
    console = console_on(terminal)
    bus.attach(ProgressBar(console=console, refreshes_per_s=per_s, monotonic=clock))
    loop = start(bus, epochs=1)
    for step in range(1, 3001):  # three seconds
        clock.now += 0.001
        loop.emit("batch_finished", epoch=1, step=step)
    assert 2 * per_s <= len(terminal.frames) <= 3 * per_s + 1
    loop.emit("run_closed", outcome="completed")


@pytest.mark.usefixtures("bar")
def test_short_epochs_do_not_make_it_redraw_more_often(
    bus: EventBus, clock: Clock, terminal: Terminal
) -> None:
    loop = start(bus, epochs=1000)
    for epoch in range(1, 1001):
        clock.now += 0.001
        loop.emit("epoch_started", epoch=epoch, step=epoch - 1)
        loop.emit("epoch_finished", epoch=epoch, step=epoch, metrics={"loss": 1.0})
    assert len(terminal.frames) <= 11


def test_no_refreshes_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="positive number, got 0"):
        ProgressBar(refreshes_per_s=0)


# -- where it is quiet


def play(bus: EventBus) -> None:
    loop = start(bus, epochs=1)
    loop.emit("epoch_started", epoch=1, step=0)
    loop.emit("batch_finished", epoch=1, step=1, metrics={"loss": 0.5})
    loop.emit("epoch_finished", epoch=1, step=1, metrics={"loss": 0.5})
    loop.emit("run_closed", outcome="completed")


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_a_terminal_it_writes_nothing(
    bus: EventBus, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if "TERM" in environment else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    bus.attach(ProgressBar())
    play(bus)
    assert stream.getvalue() == ""


def test_standard_error_is_looked_up_when_the_run_starts(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    bus.attach(ProgressBar())
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    play(bus)
    assert "epoch 1/1" in terminal.getvalue()
    assert sys.stderr is terminal


def test_other_ranks_draw_nothing(
    bus: EventBus, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    bus.attach(ProgressBar(console=console_on(terminal)))
    play(bus)
    assert terminal.getvalue() == ""


def test_a_closed_or_missing_standard_error_is_no_failure(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Terminal()
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        with bus.attach(ProgressBar()):
            play(bus)
        assert sys.stderr is stream


class Failing(Terminal):
    """A terminal that goes away after some writes."""

    def __init__(self, error: Exception, writes: int) -> None:
        super().__init__()
        self.error, self.writes = error, writes

    def write(self, text: str) -> int:
        self.writes -= 1
        if self.writes < 0:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("writes", range(8))
@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(32, "Broken pipe"), OSError(5, "EIO"), ValueError("closed file")],
    ids=["EPIPE", "EIO", "closed"],
)
def test_a_terminal_that_goes_away_ends_the_bar_and_not_the_run(
    bus: EventBus, error: Exception, writes: int
) -> None:
    streams = sys.stdout, sys.stderr
    bus.attach(ProgressBar(console=console_on(Failing(error, writes)), refreshes_per_s=1e9))
    play(bus)
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize("width", [0, 1, 5, 20, 40])
def test_any_width_will_do(bus: EventBus, terminal: Terminal, width: int) -> None:
    bus.attach(ProgressBar(console=console_on(terminal, width=width), refreshes_per_s=1e9))
    play(bus)
    texts = re.split(r"\x1b\[[?\d]*[A-Za-z]|\r", terminal.getvalue())
    assert max(len(text.rstrip("\n")) for text in texts) <= width
    assert width < 20 or "epoch 1/1" in terminal.getvalue()


def test_no_color_is_obeyed(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    plain = Terminal()
    bus.attach(ProgressBar(console=console_on(plain, color_system="256")))
    play(bus)
    assert "epoch 1/1" in plain.getvalue()
    assert "\x1b[38" not in plain.getvalue()


# -- what others print


def use_one_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Have standard output and standard error go to one terminal."""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_what_is_printed_appears_above_the_bar(
    bus: EventBus, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = use_one_terminal(monkeypatch)
    bus.attach(ProgressBar(monotonic=clock))
    loop = start(bus, epochs=1)
    steps(loop, clock, 1, 1)
    streams.truncate(0)
    print("hello", [1, 2])
    erased, printed, bar = streams.getvalue().partition("hello [1, 2]\n")
    assert "\x1b[2K" in erased
    assert printed
    assert "epoch 1/1" in bar
    loop.emit("run_closed", outcome="completed")
    assert sys.stdout is sys.stderr is streams


def test_what_is_logged_appears_above_the_bar(
    bus: EventBus, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = use_one_terminal(monkeypatch)
    logger, handler = logging.getLogger("tests.above"), logging.StreamHandler(streams)
    logger.addHandler(handler)
    try:
        bus.attach(ProgressBar(monotonic=clock))
        loop = start(bus, epochs=1)
        steps(loop, clock, 1, 1)
        streams.truncate(0)
        logger.warning("hello")
        erased, logged, bar = streams.getvalue().partition("hello\n")
        assert "\x1b[2K" in erased
        assert logged
        assert "epoch 1/1" in bar
        loop.emit("run_closed", outcome="completed")
        assert handler.stream is streams
    finally:
        logger.removeHandler(handler)


def test_output_into_a_file_stays_there(
    bus: EventBus, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = use_one_terminal(monkeypatch)
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    bus.attach(ProgressBar(monotonic=clock))
    loop = start(bus, epochs=1)
    print("hello")
    loop.emit("run_closed", outcome="completed")
    assert file.getvalue() == "hello\n"
    assert "hello" not in streams.getvalue()


def test_it_shows_itself_again_in_the_next_run(
    bus: EventBus, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = use_one_terminal(monkeypatch)
    bus.attach(ProgressBar(monotonic=clock))
    for name in ("first", "second"):
        loop = start(bus, epochs=1)
        clock.now += 1
        loop.emit("batch_finished", epoch=1, step=1, metrics={name: 0.5})
        loop.emit("run_closed", outcome="completed")
    assert "second 0.5" in streams.frames[-1]
    assert "first" not in streams.frames[-1]


DIES_WITHOUT_CLOSING = """
import os, pty, sys
from eventbus import EventBus
from eventbus.handlers import ProgressBar
bus = EventBus(strict=True)
bus.attach(ProgressBar())
bus.emit("run_started", epochs=1)
bus.emit("batch_finished", epoch=1, step=1)
raise RuntimeError("bad luck")
"""


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_loop_that_dies_without_closing_gives_the_cursor_back() -> None:
    spawn = (
        "import os, pty, sys; os.environ['TERM'] = 'xterm'; "
        f"pty.spawn([sys.executable, '-c', {DIES_WITHOUT_CLOSING!r}])"
    )
    child = run_child(spawn)
    hidden, shown = child.stdout.rfind("\x1b[?25l"), child.stdout.rfind("\x1b[?25h")
    assert 0 <= hidden < shown
    assert "bad luck" in child.stdout


def test_bars_share_a_console_and_leave_it_as_it_was(terminal: Terminal, clock: Clock) -> None:
    console = console_on(terminal)
    console.on_broken_pipe = own = lambda: None
    bus = EventBus(strict=True)
    for name in ("bar", "other"):
        bus.attach(ProgressBar(console=console, monotonic=clock), name=name)
    loop = start(bus, epochs=1)
    steps(loop, clock, 1, 3)
    assert console.on_broken_pipe is not own
    loop.emit("run_closed", outcome="completed")
    assert console.on_broken_pipe is own


def test_hook_that_somebody_puts_on_a_console_meanwhile_stays(
    terminal: Terminal, clock: Clock
) -> None:
    console, bus = console_on(terminal), EventBus(strict=True)
    bus.attach(ProgressBar(console=console, monotonic=clock))
    loop = start(bus, epochs=1)
    console.on_broken_pipe = own = lambda: None
    loop.emit("run_closed", outcome="completed")
    assert console.on_broken_pipe is own


def test_closing_twice_is_no_failure(bar: ProgressBar, bus: EventBus) -> None:
    start(bus, epochs=1)
    bar.close()
    bar.close()
