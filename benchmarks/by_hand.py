"""What a person writes without any library: the base of the ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Handler", "handlers_taking", "loop_over", "loop_over_due", "noop", "written_ifs"]

Handler = Callable[..., None]


def handlers_taking(parameters: str, count: int) -> list[Handler]:
    """Return functions that do nothing; each has code of its own, as real handlers have."""
    return [_compiled(f"def handler_{i}({parameters}): pass", f"handler_{i}") for i in range(count)]


def noop(count: int) -> None:
    """Call a function that does nothing, with the fields as keywords."""
    (nothing,) = handlers_taking("*, epoch, step, loss", 1)
    for step in range(1, count + 1):
        nothing(epoch=1, step=step, loss=0.5)


def loop_over(handlers: Sequence[Handler], count: int) -> None:
    """Call the handlers in a loop."""
    for step in range(1, count + 1):
        for handler in handlers:
            handler(step, 0.5)


def loop_over_due(handlers: Sequence[Handler], period: int, count: int) -> None:
    """Call the handlers in a loop, each where it is due."""
    for step in range(1, count + 1):
        for handler in handlers:
            if step % period == 0:
                handler(step, 0.5)


def written_ifs(handlers: Sequence[Handler], period: int) -> Callable[[int], None]:
    """Return a loop with a line for each handler, as one writes them out."""
    names = [f"handler_{i}" for i in range(len(handlers))]
    lines = [f"        if step % {period} == 0: {name}(step, 0.5)" for name in names]
    head = ["def run(count):", "    for step in range(1, count + 1):"]
    loop: Callable[[int], None] = _compiled(
        "\n".join([*head, *lines]), "run", **dict(zip(names, handlers, strict=True))
    )
    return loop


def _compiled(source: str, name: str, **names: Any) -> Any:
    exec(source, names)
    return names[name]
