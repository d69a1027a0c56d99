"""pluggy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

from benchmarks.rivals import Rival

PROJECT = "bench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Spec:
    """The one hook."""

    @hookspec
    def batch_finished(self, epoch: int, step: int, loss: float) -> None:
        """One step is complete."""


def dispatch(handlers: int, every: int | None) -> Callable[[int], None]:
    """Emit by calling a hook."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Spec)
    for _ in range(handlers):
        manager.register(_plugin(every))
    hook = manager.hook

    def emissions(count: int) -> None:
        for step in range(1, count + 1):
            hook.batch_finished(epoch=1, step=step, loss=0.5)

    return emissions


def _plugin(every: int | None) -> Any:
    class Plugin:
        @hookimpl
        def batch_finished(self, step: int, loss: float) -> None:
            pass

    class PluginWhenDue:
        @hookimpl
        def batch_finished(self, step: int, loss: float) -> None:
            if step % every == 0:  # type: ignore[operator]
                pass

    return Plugin() if every is None else PluginWhenDue()


RIVAL = Rival(
    "pluggy",
    "pluggy",
    "pluggy",
    "the last one registered is called first; it collects results; it has no filters, so the `if`"
    " is in the implementation",
    dispatch,
)
