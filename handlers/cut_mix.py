"""Train on images with a box from another image, and targets mixed by area."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ._arguments import When
from ._mixing import Key, Mixing, drawn_below, drawn_proportion

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["CutMix"]


class CutMix(Mixing):
    """Paste a box of another image of the batch into each: CutMix.

    After Yun, Han, Oh, Chun, Choe and Yoo, 2019, "CutMix: Regularization Strategy to Train Strong
    Classifiers with Localizable Features" (arXiv:1905.04899), section 3.1 and algorithm A1: λ from
    Beta(alpha, alpha), a box of width ``W * sqrt(1 - λ)`` and height ``H * sqrt(1 - λ)`` around a
    point drawn evenly from the image, cut off at its edges; λ then becomes the area that is left,
    exactly: ``1 - box / (W * H)``, and the targets are ``λ * y_1 + (1 - λ) * y_2``. One box for
    each batch, whose partners are the same batch shuffled.

    ==================  =====================================================================
    signals consumed    `batch_loaded`, `run_started`
    values produced     the batch: inputs as they were in shape and type; targets (N, classes),
                        floating-point, rows that sum to 1, which `cross_entropy` takes
    cost                a copy of the inputs, where they are; no synchronisation
    state               the random generator; it starts anew with a run that does not resume
    band, errors        ALTER; raised
    ==================  =====================================================================

    Parameters
    ----------
    classes
        How many there are.
    alpha
        Above 0; 1, as in the paper, draws λ evenly from 0 to 1.
    probability
        With which a batch is mixed; in the others only the targets become soft. The paper takes 1
        for ImageNet, and 0.5 for CIFAR.
    inputs, targets
        Where these are in a batch: positions in a tuple or list, keys in a dict. Inputs: any type,
        (N, ..., H, W). Targets: class numbers (N,), or soft already (N, classes). Other parts stay
        as they are.
    seed
        Of the generator.
    when
        A filter on the batches.

    Raises
    ------
    TypeError
        At a batch whose parts are not as above.

    Examples
    --------
    >>> import torch
    >>> from eventbus import EventBus
    >>> from eventbus.handlers import CutMix
    >>> bus = EventBus()
    >>> _ = bus.attach(CutMix(classes=2, seed=5))
    >>> black, white = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    >>> batch = torch.cat([black, white]), torch.tensor([0, 1])
    >>> images, targets = bus.bind(sender="train").transform("batch_loaded", batch, epoch=1, step=1)
    >>> bool((images.mean((1, 2, 3)) == targets[:, 1]).all())     # as white as the target says
    True
    """

    def __init__(
        self,
        classes: int,
        *,
        alpha: float = 1.0,
        probability: float = 1.0,
        inputs: Key = 0,
        targets: Key = 1,
        seed: int = 0,
        when: When | None = None,
    ) -> None:
        super().__init__(
            classes,
            alpha=alpha,
            probability=probability,
            inputs=inputs,
            targets=targets,
            seed=seed,
            when=when,
        )

    def _mixed(self, inputs: Tensor, partners: Tensor) -> tuple[Tensor, float]:
        if inputs.dim() < 3:
            raise TypeError(
                f"CutMix takes images of shape (N, ..., H, W), got shape {tuple(inputs.shape)}"
            )
        height, width = inputs.shape[-2:]
        share = drawn_proportion(self.alpha, self.generator)
        rows, columns = _box(height, width, share, self.generator)
        mixed = inputs.clone()
        mixed[..., rows, columns] = inputs[partners][..., rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return mixed, 1.0 - area / max(1, height * width)


def _box(height: int, width: int, share: float, generator: torch.Generator) -> tuple[slice, slice]:
    """Draw the box that is replaced, in pixels; `share` is what is to be left of the image."""
    side = math.sqrt(1.0 - share)
    return _span(height, side, generator), _span(width, side, generator)


def _span(length: int, fraction: float, generator: torch.Generator) -> slice:
    # As in the authors' code: half the side, rounded down, to either side of the point.
    half = int(length * fraction) // 2
    middle = drawn_below(max(1, length), generator)
    return slice(max(0, middle - half), min(length, middle + half))
