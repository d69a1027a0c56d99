"""The training of the whole run: bare, with its duties by hand, and with eventbus."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.task import Task, criterion
from eventbus import EventBus, every
from eventbus.handlers import Checkpoint, CSVLog, EarlyStopping, LRSchedule
from eventbus.loops import Run

__all__ = ["bare", "by_hand", "with_eventbus"]


def bare(task: Task, folder: Path) -> int:
    """Train, and nothing else."""
    model = task.model()
    optimizer, _ = task.optimizer(model)
    train, _ = task.loaders()
    step = 0
    for _ in range(task.epochs):
        for inputs, labels in train:
            loss = criterion(model(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return step


def by_hand(task: Task, folder: Path, durable: bool = False) -> int:
    """Train with all duties inline."""
    model = task.model()
    optimizer, scheduler = task.optimizer(model)
    train, validation = task.loaders()
    log = task.open_log(folder)
    save = DurableSaves() if durable else save_plainly
    best, since_best, step = float("inf"), 0, 0
    for epoch in range(1, task.epochs + 1):
        model.train()
        for inputs, labels in train:
            loss = criterion(model(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % task.log_every == 0:
                log.row(epoch, step, loss.item())
        val_loss, _ = validated(model, validation)
        scheduler.step()
        since_best = 0 if val_loss < best else since_best + 1
        best = min(best, val_loss)
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        state = {name: part.state_dict() for name, part in parts.items()}
        save({**state, "epoch": epoch, "step": step}, folder, is_best=since_best == 0)
        if since_best >= task.patience:
            break
    log.close()
    return step


def validated(model: torch.nn.Module, loader: Any) -> tuple[float, float]:
    """Return the mean loss and accuracy."""
    model.eval()
    losses, hits, size = torch.zeros(()), torch.zeros(()), 0
    with torch.no_grad():
        for inputs, labels in loader:
            outputs = model(inputs)
            losses += criterion(outputs, labels) * len(labels)
            hits += (outputs.argmax(1) == labels).sum()
            size += len(labels)
    return (losses / size).item(), (hits / size).item()


def save_plainly(state: dict[str, Any], folder: Path, *, is_best: bool) -> None:
    """Save the last one, and copy it where it is the best."""
    torch.save(state, folder / "saving.pt")
    (folder / "saving.pt").replace(folder / "last.pt")
    if is_best:
        shutil.copyfile(folder / "last.pt", folder / "copying.pt")
        (folder / "copying.pt").replace(folder / "best.pt")


class DurableSaves:
    """Saves as safely as `Checkpoint`, as one writes it by hand.

    Each save is a directory of its own, with the state and a SHA-256 sum of it; it gets its name
    when all of it is on the disk, and only then are older ones deleted, the best one kept. The
    random generators are saved, and the log is on the disk up to the save. What `Checkpoint` does
    besides: it refuses state that would not load, keeps the position in the data and the means so
    far, reads the manifests back before it deletes, sweeps what killed processes left, and writes
    the name of the newest into a file.
    """

    def __init__(self) -> None:
        self._last: Path | None = None
        self._best: Path | None = None

    def __call__(self, state: dict[str, Any], folder: Path, *, is_best: bool) -> None:
        """Save, and delete what is neither the last nor the best."""
        _bring_to_disk(folder / "loss.csv")
        path = folder / f"step-{state['step']:08d}"
        attempt = folder / ".unfinished"
        attempt.mkdir()
        generators = {"python": random.getstate(), "torch": torch.get_rng_state()}
        torch.save({**state, "random": generators}, attempt / "state.pt")
        with (attempt / "state.pt").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        (attempt / "state.sha256").write_text(digest)
        for each in (attempt / "state.pt", attempt / "state.sha256", attempt):
            _bring_to_disk(each)
        attempt.rename(path)
        _bring_to_disk(folder)
        self._keep(path, is_best)

    def _keep(self, path: Path, is_best: bool) -> None:
        before = {self._last, self._best}
        self._last, self._best = path, path if is_best else self._best
        for each in filter(None, before - {self._last, self._best}):
            shutil.rmtree(each)


def _bring_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def with_eventbus(task: Task, folder: Path, asynchronous: bool = False) -> int:
    """Train with the same duties as handlers."""
    model = task.model()
    optimizer, scheduler = task.optimizer(model)
    train, validation = task.loaders()
    bus = EventBus()
    bus.attach(CSVLog(folder / "loss.csv", on="batch_finished", when=every(task.log_every)))
    bus.attach(EarlyStopping("val_loss", patience=task.patience))
    saves = folder / "checkpoints"
    bus.attach(Checkpoint(saves, keep=1, best="val_loss", asynchronous=asynchronous))
    bus.attach(LRSchedule(lambda _: scheduler))
    with Run(bus, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(task.epochs):
            model.train()
            for inputs, labels in run.batches(train):
                loss = criterion(model(inputs), labels)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
                optimizer.step()
                optimizer.zero_grad()
                run.report(loss=loss)
            _validate(run, model, validation)
    return run.step


def _validate(run: Run, model: torch.nn.Module, loader: Any) -> None:
    model.eval()
    with torch.no_grad():
        for inputs, labels in run.validate(loader):
            outputs = model(inputs)
            hits = (outputs.argmax(1) == labels).float().mean()
            run.report(loss=criterion(outputs, labels), accuracy=hits)
