"""The command `eventbus`: what it lists, and how it says that it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventbus import Priority, handlers, handles
from eventbus.cli import main
from eventbus.cli.catalogue import HandlerFacts, handler_facts, shipped_handlers
from eventbus.cli.pages import PAGES
from eventbus.signals import STANDARD

SHIPPED = shipped_handlers()


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert name == "eventbus"
    assert version[0].isdigit()


def test_without_arguments_it_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("demo", "signals", "handlers"))
    assert " docs " not in shown


def test_every_standard_signal_is_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["signals"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, declaration in STANDARD.items():
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert line.split()[1] == (declaration.clock or "–")


def test_every_shipped_handler_is_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["handlers"]) == 0
    first_words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert {facts.name for facts in SHIPPED} <= first_words
    assert {"EarlyStopping", "Checkpoint"} <= first_words


@pytest.mark.parametrize("facts", SHIPPED, ids=lambda facts: facts.name)
def test_all_about_one_handler_is_how_it_is_made_and_its_docstring(
    capsys: pytest.CaptureFixture[str], facts: HandlerFacts
) -> None:
    assert main(["handlers", facts.name]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{facts.name}(")
    assert all(part in shown for part in (facts.line, "signals consumed", "Examples\n--------"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("EarlyStoping", "; did you mean 'EarlyStopping'?"),
        ("xyz", "; `eventbus handlers` lists them"),
        ("__init__", "; `eventbus handlers` lists them"),
    ],
)
def test_a_handler_that_is_not_there_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], name: str, hint: str
) -> None:
    assert main(["handlers", name]) == 2
    assert capsys.readouterr().err == f"eventbus: there is no handler {name!r}{hint}\n"


def test_a_class_that_hears_nothing_is_not_taken_for_a_handler() -> None:
    assert {facts.name for facts in SHIPPED} <= set(handlers.__all__)


@pytest.mark.parametrize("facts", SHIPPED, ids=lambda facts: facts.name)
def test_a_handler_is_listed_with_signals_band_and_purpose(facts: HandlerFacts) -> None:
    assert facts.signals
    assert facts.bands
    assert facts.line.endswith(".")


class Watching:
    """Watches. More about it."""

    def __init__(self, on: tuple[str, ...] = ("epoch_finished",), name: str = "step") -> None:
        self.watch = handles(*on, "run_closed", priority=Priority.DECIDE)(self.look)

    def look(self) -> None: ...

    @handles("validation_*", priority=Priority.REPORT + 1)
    def validate(self) -> None: ...


class WatchingMore(Watching):
    """Watches more."""

    @handles("run_opened", "sample_drawn", priority=Priority.REPORT)
    def open(self) -> None: ...


def test_signals_are_found_in_marks_and_in_what_is_chosen_when_a_handler_is_made() -> None:
    found = ("validation_*", "epoch_finished", "run_closed")
    assert handler_facts(Watching).signals == found
    assert handler_facts(WatchingMore).signals == ("run_opened", *found, "sample_drawn")


def test_the_commonest_band_is_named_first() -> None:
    assert set(handler_facts(Watching).bands) == {"REPORT", "DECIDE"}
    assert handler_facts(WatchingMore).bands == ("REPORT", "DECIDE")


def test_the_pages_are_written_where_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["docs", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(PAGES)
    assert len(capsys.readouterr().out.splitlines()) == len(PAGES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demos"], "demos"),
        (["signals", "extra"], "extra"),
        (["demo", "--epochs", "many"], "--epochs"),
        (["demo", "--epochs", "0"], "--epochs is at least 1, got 0"),
        (["demo", "--epoch", "3"], "--epoch"),
        (["demo", "--seed", "-1"], "--seed is from 0"),
        (["demo", "--seed", str(2**70)], "--seed is from 0"),
        (["demo", "--run-dir", ""], "'--run-dir': a path is not empty"),
        (["checkpoints", ""], "'directory': a path is not empty"),
        (["docs", "no-such-folder"], "no-such-folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.startswith("eventbus: ")
    assert said in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_without_its_libraries_it_says_what_to_install(library: str) -> None:
    script = f"import sys; sys.modules[{library!r}] = None\nfrom eventbus.cli import main\n"
    done = run_python(f"{script}raise SystemExit(main(['signals']))")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert library in done.stderr
    assert "pip install 'training-eventbus[cli]'" in done.stderr


def test_an_import_that_fails_for_another_reason_is_not_hidden() -> None:
    script = "import sys; sys.modules['eventbus.signals'] = None\nfrom eventbus.cli import main\n"
    assert "ModuleNotFoundError" in run_python(f"{script}main(['signals'])").stderr


@pytest.mark.skipif(os.name == "nt", reason="has no broken pipes")
@pytest.mark.parametrize("arguments", [["--help"], ["signals"], ["handlers", "CSVLog"]])
def test_an_output_that_nobody_reads_ends_it_quietly_with_code_141(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "eventbus.cli", *arguments]
    done = subprocess.run(command, check=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [["signals"], ["handlers"]])
def test_an_output_that_has_not_all_characters_gets_question_marks(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eventbus.cli", *arguments],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "200"},
    )
    assert b" ? " in done.stdout
    assert not done.stderr


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eventbus.cli", "--version"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("eventbus ")


def test_importing_the_entry_point_imports_no_library() -> None:
    script = "import sys, eventbus.cli; print({'typer', 'rich', 'torch'} & set(sys.modules))"
    assert run_python(script).stdout.strip() == "set()"
