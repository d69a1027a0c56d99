"""The models and optimizers of a run, as a handler takes them from the context."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

__all__ = ["Parts", "bare"]

logger = logging.getLogger("eventbus.handlers")


class Parts:
    """Which of a run's models, or optimizers, a handler works on.

    Parameters
    ----------
    owner
        The handler's name, for messages.
    what
        "model" or "optimizer".
    chosen
        The name of one of several; None for all there are, or the only one.

    Examples
    --------
    >>> from eventbus.handlers._parts import Parts
    >>> Parts("EMA", "model", "g").one({"g": 1, "d": 2})
    1
    """

    def __init__(self, owner: str, what: str, chosen: str | None) -> None:
        self.owner, self.what, self.chosen = owner, what, chosen
        self._has_warned = False

    def all(self, parts: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return those to work on, by name.

        Raises
        ------
        ValueError
            The run has none at all, or none of the chosen name.
        """
        if not parts:
            raise ValueError(f"{self.owner}: the run has no {self.what}")
        if self.chosen is None:
            return dict(parts)
        if self.chosen not in parts:
            names = ", ".join(parts)
            raise ValueError(
                f"{self.owner}: the run has no {self.what} {self.chosen!r}; it has: {names}"
            )
        return {self.chosen: parts[self.chosen]}

    def ahead(self, parts: Mapping[str, Any]) -> str:
        """Return what a key begins with that is of the chosen one: its name and a dot.

        Nothing where the run has no other, so that keys are those of any run of one model.

        Examples
        --------
        >>> from eventbus.handlers._parts import Parts
        >>> chosen = Parts("EMA", "model", "g")
        >>> chosen.ahead({"g": 1, "d": 2}), chosen.ahead({"g": 1})
        ('g.', '')
        """
        return f"{self.chosen}." if self.chosen is not None and len(parts) > 1 else ""

    def one(self, parts: Mapping[str, Any] | None) -> Any:
        """Return the one to work on; None, with one warning, where the run has none at all.

        Raises
        ------
        ValueError
            There are several, and none was chosen.
        """
        if not parts:
            self._warn()
            return None
        found = self.all(parts)
        if len(found) > 1:
            raise ValueError(
                f"{self.owner}: the run has several {self.what}s ({', '.join(found)}); "
                f"say which one: {self.what}={next(iter(found))!r}"
            )
        return next(iter(found.values()))

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("%s does nothing: the run has no %s", self.owner, self.what)


def bare(model: Any) -> Any:
    """Return the model inside what `torch.compile` and data parallelism wrap around it."""
    from torch.nn import DataParallel
    from torch.nn.parallel import DistributedDataParallel

    model = getattr(model, "_orig_mod", model)  # torch.compile's
    wrapped = isinstance(model, DataParallel | DistributedDataParallel)
    return bare(model.module) if wrapped else model
