"""`eventbus demo`: a loop that only trains, and handlers that do all the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus.cli.errors import CommandError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from eventbus import EventBus
    from eventbus.cli.digits import Digits
    from eventbus.loops import Run

RUNS = Path("runs")
_LEARNING_RATE = 3e-3
_SEEDS = 2**32
_SETTINGS = "settings.json"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Options:
    """What the command was called with; None where it is left to the demo."""

    epochs: int = 30
    run_dir: Path | None = None
    seed: int | None = None
    resume: bool = False


def demo(options: Options, console: Console) -> Run:
    """Train as the options say, show it on the console, and return the finished run.

    Raises
    ------
    CommandError
        The options do not fit each other or what is on the disk, or a library is missing.
    """
    folder, seed = _settle(options)
    import torch  # after the mistakes that need no second to find

    from eventbus.cli.demo_handlers import Handlers
    from eventbus.cli.digits import digit_reader, load_digits
    from eventbus.cli.summary import show_summary

    with _one_thread():
        digits = load_digits(seed)
        torch.manual_seed(seed)
        handlers = Handlers.into(folder, resume=options.resume)
        _note_settings(folder, seed)
        console.print(f"1797 scanned digits; all files go into {folder}", soft_wrap=True)
        with handlers.bus.profile() as profile, _hint_after_interrupt(folder, console):
            run = train(handlers.bus, digit_reader(), digits, options.epochs)
    show_summary(run, handlers, profile, folder, console, epochs=options.epochs)
    return run


def train(bus: EventBus, model: nn.Module, digits: Digits, epochs: int) -> Run:
    """Train the model. The loop knows no handler; what happens besides is on the bus."""
    import torch
    from torch.nn.functional import cross_entropy

    from eventbus.loops import Run

    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    with Run(bus, model=model, optimizer=optimizer) as run:
        for _epoch in run.epochs(epochs):
            model.train()
            for images, targets in run.batches(digits.training):
                loss = cross_entropy(model(images), targets)
                loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                optimizer.step()
                optimizer.zero_grad()
                run.report(loss=loss)
            model.eval()
            with torch.no_grad():
                for images, targets in run.validate(digits.validation):
                    scores = model(images)
                    accuracy = (scores.argmax(dim=1) == targets).float().mean()
                    run.report(loss=cross_entropy(scores, targets), accuracy=accuracy)
    return run


def _settle(options: Options) -> tuple[Path, int]:
    """Find the folder and the seed of the run, and refuse what cannot work; nothing is written."""
    if options.epochs < 1:
        raise CommandError(f"--epochs is at least 1, got {options.epochs}")
    if options.seed is not None and not 0 <= options.seed < _SEEDS:
        raise CommandError(f"--seed is from 0 to {_SEEDS - 1}, got {options.seed}")
    if options.resume:
        return _settle_resumed(options)
    folder = options.run_dir or RUNS / f"digits-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    if _holds_run(folder):
        raise CommandError(f"{folder} holds a run already: --resume goes on from it")
    return folder, options.seed or 0


def _settle_resumed(options: Options) -> tuple[Path, int]:
    folder = options.run_dir or _newest_run()
    if not _holds_run(folder):
        raise CommandError(f"nothing to resume: {folder} holds no run of the demo")
    try:
        seed = int(json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))["seed"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CommandError(f"cannot read the seed in {folder / _SETTINGS}: {error}") from error
    if options.seed not in (None, seed):
        # Another split would show the network what it is to be validated on.
        raise CommandError(f"the run in {folder} has --seed {seed}, got {options.seed}")
    return folder, seed


def _newest_run() -> Path:
    found = sorted(folder for folder in RUNS.glob("digits-*") if _holds_run(folder))
    if not found:
        raise CommandError(f"nothing to resume: there is no run in {RUNS / 'digits-*'} here")
    return found[-1]


def _holds_run(folder: Path) -> bool:
    return any((folder / CHECKPOINTS).glob("*/manifest.json"))


def _note_settings(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SETTINGS).write_text(json.dumps({"seed": seed}) + "\n", encoding="utf-8")


@contextmanager
def _one_thread() -> Iterator[None]:
    # Pictures of 8 by 8 are too small to share out: more threads mostly wait for each other.
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _hint_after_interrupt(folder: Path, console: Console) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if _holds_run(folder):
            hint = f"interrupted; go on with: eventbus demo --resume --run-dir {folder}"
            console.print(hint, soft_wrap=True)
        raise
