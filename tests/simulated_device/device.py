"""The simulated device of `device.cpp`: built, made known to torch, and what a test says to it.

A process that knows it has an accelerator from then on, so it is one of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

__all__ = ["NAME", "PATIENCE_S", "Device", "can_be_built", "load", "pattern"]

NAME = "simulated"
PATTERN = 0xA5
"""Each byte of host memory that a copy is on its way to."""

PATIENCE_S = 30.0
"""How long a test waits for another thread before it fails; none should come near."""


def can_be_built() -> bool:
    """Tell whether there is what torch compiles extensions with."""
    from torch.utils import cpp_extension

    compiler: str = cpp_extension.get_cxx_compiler()  # type: ignore[no-untyped-call]  # torch's
    return shutil.which(compiler) is not None and cpp_extension.is_ninja_available()


def load(folder: Path) -> None:
    """Build it in this folder, which takes some 10 s, and have torch know it."""
    from torch.utils import backend_registration, cpp_extension

    cpp_extension.load(
        "simulated_device",
        [str(Path(__file__).with_name("device.cpp"))],
        extra_cflags=["-O0"],
        build_directory=str(folder),
        is_python_module=False,
    )
    backend_registration.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())  # type: ignore[no-untyped-call]  # torch's
    backend_registration.generate_methods_for_privateuse1_backend()


def _module() -> ModuleType:
    """Make `torch.simulated`: the part of `torch.cuda` that torch and the package ask for."""
    module = ModuleType(f"torch.{NAME}")
    vars(module).update(
        is_available=lambda: True,
        device_count=lambda: 2,
        current_device=torch.accelerator.current_device_index,
        current_stream=torch.accelerator.current_stream,
        manual_seed_all=lambda seed: None,
        _is_in_bad_fork=lambda: False,
    )
    return module


class Device:
    """What a test says to the device, and asks of it."""

    def __init__(self) -> None:
        self._ops: Any = torch.ops.simulated

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hold copies back; whoever waits for the device meanwhile fails, with a RuntimeError."""
        self._ops.hold()
        try:
            yield
        finally:
            self.let_go()

    def let_go(self) -> None:
        self._ops.let_go()

    def finish(self) -> None:
        """Let go, and wait until all is done; this wait is not counted."""
        self._ops.finish()

    def is_waited_for(self) -> bool:
        """Tell whether another thread waits for an event, or comes to that."""
        return bool(self._ops.is_waited_for(PATIENCE_S))

    def be_careless(self, careless: bool) -> None:
        """Deliver late into any memory, as MPS does."""
        self._ops.be_careless(careless)

    @property
    def waits(self) -> int:
        """How often the host has waited for the device, but for events."""
        return int(self._ops.waits())

    @property
    def copies(self) -> int:
        """How many copies were queued that the host does not wait for."""
        return int(self._ops.copies())

    @property
    def under_way(self) -> int:
        """How many of them are not done."""
        return int(self._ops.under_way())

    @property
    def overwritten(self) -> int:
        """How many to the device came from memory that was changed before they were done."""
        return int(self._ops.overwritten())


def pattern(dtype: torch.dtype = torch.float32) -> Any:
    """Return what a number is that is read before it has arrived."""
    return torch.full((8,), PATTERN, dtype=torch.uint8).view(dtype)[0].item()
