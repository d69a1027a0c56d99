"""Change batches on the fly with any function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ._arguments import When
from ._batch_alteration import BatchAlteration

__all__ = ["AlterBatch"]


class AlterBatch(BatchAlteration):
    """Replace each batch by what a function makes of it.

    ==================  =====================================================================
    signals consumed    `batch_loaded`, `run_started`
    values produced     the batch
    cost                that of the function; the handler itself reads nothing
    state               the random generator; it starts anew with a run that does not resume
    band, errors        ALTER; raised
    ==================  =====================================================================

    Parameters
    ----------
    function
        Takes the batch and returns the new one, or None to keep the one it got. A second parameter
        that is called `generator` gets the handler's `torch.Generator`, on the CPU: what is drawn
        from it is the same when the run is repeated or resumed.
    seed
        Of the generator.
    when
        A filter on the batches: ``lambda epoch: epoch <= 90``.

    Attributes
    ----------
    generator : torch.Generator

    Examples
    --------
    >>> import torch
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import AlterBatch
    >>> def flip(batch, generator):
    ...     images, labels = batch
    ...     mirrored = torch.rand(len(images), generator=generator) < 0.5
    ...     return torch.where(mirrored[:, None], images.flip(-1), images), labels
    >>> bus = EventBus()
    >>> _ = bus.attach(AlterBatch(flip, seed=1))
    >>> images, labels = torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 1])
    >>> bus.bind(sender="train").transform("batch_loaded", (images, labels), epoch=1, step=1)
    (tensor([[1, 2],
            [4, 3]]), tensor([0, 1]))
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        seed: int = 0,
        when: When | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"AlterBatch takes a function of the batch; got {function!r}")
        super().__init__(seed, when)
        self.function = function
        self._draws = "generator" in inspect.signature(function).parameters

    def _altered(self, batch: Any) -> Any:
        if self._draws:
            return self.function(batch, generator=self.generator)
        return self.function(batch)
