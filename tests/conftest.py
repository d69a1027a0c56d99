"""What every test shares: a quiet, single-threaded environment, and GPU tests that skip by name."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import settings

# Read when the library concerned is first imported, so they are set before any test module is.
os.environ.update(
    HF_HUB_OFFLINE="1",
    KERAS_BACKEND="torch",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
)

# No deadline: a slow machine is no failure. No database: each run tries the same examples.
settings.register_profile("eventbus", deadline=None, derandomize=True, database=None)
settings.load_profile("eventbus")


def pytest_addoption(parser: pytest.Parser) -> None:
    """For `make docs`: the tables of `docs/loops.md` are written by the tests that hold them."""
    parser.addoption("--write-docs", action="store_true", help="write the tables in docs/ anew")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """For `make slow`: pass over files without a slow test, whose imports take most of a minute."""
    is_for_slow = config.option.markexpr == "slow" and collection_path.suffix == ".py"
    return True if is_for_slow and "mark.slow" not in collection_path.read_text("utf-8") else None


def pytest_collection_finish() -> None:
    """Spare the garbage collector, which many tests call, what the imports of all have made."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
