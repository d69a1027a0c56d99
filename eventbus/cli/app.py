"""The commands, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import io
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from eventbus import EventBusError
from eventbus.cli.catalogue import handlers_table
from eventbus.cli.checkpoints import CheckpointOptions
from eventbus.cli.checkpoints import checkpoints as run_checkpoints
from eventbus.cli.demo import Options
from eventbus.cli.demo import demo as run_demo
from eventbus.cli.errors import CommandError
from eventbus.cli.handlers_page import all_about
from eventbus.cli.pages import write_pages
from eventbus.cli.signals_table import signals_table

_BROKEN_PIPE = 128 + 13  # a shell's code for what SIGPIPE ends

app = typer.Typer(
    name="eventbus",
    help="An event bus for training instrumentation: one vocabulary, one handler for every loop.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def run(arguments: list[str]) -> int:
    """Run the command with these arguments; return its exit code."""
    _let_all_be_printed()
    try:
        code = _code_of(arguments)
        print(end="", flush=True)  # or nobody would hear of it before the process ends
    except BrokenPipeError:
        return _left_by_its_reader()
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # which click and rich end by 1
            raise
        return _left_by_its_reader()
    return code


def _let_all_be_printed() -> None:
    """Have a question mark printed for what the encoding of the output has not."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _code_of(arguments: list[str]) -> int:
    try:
        code = app(arguments or ["--help"], prog_name="eventbus", standalone_mode=False)
    except typer.Abort:
        return 130
    except BrokenPipeError:
        raise
    except (CommandError, EventBusError, ImportError, OSError, typer.TyperException) as error:
        print(f"eventbus: {_one_line(error)}", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0


def _left_by_its_reader() -> int:
    """Drop what is still to be printed, which Python would complain of; return the exit code."""
    if sys.stdout is not None:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return _BROKEN_PIPE


def _one_line(error: Exception) -> str:
    said = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    return " ".join(said.split())


def _path(given: str) -> Path:
    if not given:  # which would be the directory that the process is in
        raise typer.BadParameter("a path is not empty; the directory that you are in is '.'")
    return Path(given)


def _console() -> Console:
    return Console(highlight=False, markup=False)  # a path may hold brackets


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"eventbus {version('training-eventbus')}")
        raise typer.Exit


@app.callback()
def _top(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def signals() -> None:
    """List the standard signals: name, clock, fields, when they fire."""
    _console().print(signals_table())


@app.command()
def handlers(
    name: Annotated[str | None, typer.Argument(help="One of them: all there is to say.")] = None,
) -> None:
    """List the shipped handlers: name, signals, band, and what each is for."""
    if name is None:
        _console().print(handlers_table())
    else:
        print(all_about(name))


@app.command()
def demo(
    epochs: Annotated[int, typer.Option(help="Train for at most so many epochs.")] = 30,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where the files go.",
            show_default="runs/digits-<time>",
            parser=_path,
            metavar="<path>",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the split, the weights and the order.", show_default="0"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the newest checkpoint of the run in --run-dir."),
    ] = False,
) -> None:
    """Train a small network on scanned digits, with the usual handlers on the bus."""
    run_demo(Options(epochs, run_dir, seed, resume), _console())


@app.command()
def checkpoints(
    directory: Annotated[
        Path, typer.Argument(help="Where a Checkpoint handler saved.", parser=_path)
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every sum and load every one.")
    ] = False,
    show: Annotated[
        str | None, typer.Option(help="Show what is in one: its name or path, or 'latest'.")
    ] = None,
    prune: Annotated[
        int | None,
        typer.Option(help="Delete all but so many of the newest, and the best."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --prune: say what it would delete, and do not.")
    ] = False,
) -> None:
    """List the checkpoints in a directory; verify, show or prune them."""
    run_checkpoints(CheckpointOptions(directory, verify, show, prune, dry_run), _console())


@app.command(hidden=True)
def docs(
    folder: Annotated[Path, typer.Argument(help="Where the pages are.")] = Path("docs"),
) -> None:
    """Write the pages that are made from the code anew."""
    if not folder.is_dir():
        raise CommandError(f"no folder {str(folder)!r} here: run it from the root of a checkout")
    for path in write_pages(folder):
        print(path)
