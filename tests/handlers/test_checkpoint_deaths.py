"""A whole run whose process dies at an operation on the disk, and the one that goes on (T01)."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch

from eventbus import EventBus
from eventbus.handlers import Checkpoint
from eventbus.handlers._files import Files

from .hand_loop import Training, sequence_of
from .saving import Died, Failing, unfinished

EPOCHS = 3
LOSSES = sequence_of([2.0, 1.0, 3.0, 4.0])  # so that the best is neither the first nor the last


def train(directory: Path, files: Files, epochs: int = EPOCHS) -> Training:
    bus, checkpoint = EventBus(strict=True), Checkpoint(directory, keep=1, resume="auto")
    checkpoint.files = files
    bus.attach(checkpoint)
    return Training(bus).run(epochs, LOSSES)


def operations(directory: Path) -> int:
    counting = Failing(0, Died())
    train(directory, counting)
    return counting.count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_run_whose_process_ends_at_an_operation_goes_on_and_ends_as_one_that_did_not(
    tmp_path: Path,
) -> None:
    whole, total = Training(EventBus()).run(EPOCHS + 1), operations(tmp_path / "counted")
    for at in itertools.chain(range(1, total, 5), [total]):
        path = tmp_path / str(at)
        child = os.fork()
        if child == 0:
            try:
                train(path, Failing(at, Died(), end=os._exit))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
        before = Checkpoint.saved(path)
        resumed = train(path, Files(), EPOCHS + 1)
        assert (resumed.resumed_from is not None) == bool(before), f"operation {at}"
        assert torch.equal(resumed.weight, whole.weight)
        assert [saved.manifest.epoch for saved in Checkpoint.saved(path)] == [2, EPOCHS + 1]
        assert unfinished(path) == []
