"""Train on weighted means of two samples and of their targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._arguments import When
from ._mixing import Key, Mixing, drawn_proportion

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MixUp"]


class MixUp(Mixing):
    """Mix each sample with another one of its batch: mixup.

    After Zhang, Cissé, Dauphin and Lopez-Paz, 2018, "mixup: Beyond Empirical Risk Minimization"
    (arXiv:1710.09412), figure 1: ``x = λ * x_1 + (1 - λ) * x_2`` and ``y = λ * y_1 + (1 - λ) *
    y_2`` with λ from Beta(alpha, alpha), once for each batch, whose partners are the same batch
    shuffled.

    ==================  =====================================================================
    signals consumed    `batch_loaded`, `run_started`
    values produced     the batch: inputs as they were in shape and type; targets (N, classes),
                        floating-point, rows that sum to 1, which `cross_entropy` takes
    cost                one pass over the inputs, where they are; no synchronisation
    state               the random generator; it starts anew with a run that does not resume
    band, errors        ALTER; raised
    ==================  =====================================================================

    Parameters
    ----------
    classes
        How many there are.
    alpha
        Above 0; the larger, the more alike the two shares. The paper takes 0.1 to 0.4 for ImageNet,
        and 1 for CIFAR.
    probability
        With which a batch is mixed; in the others only the targets become soft.
    inputs, targets
        Where these are in a batch: positions in a tuple or list, keys in a dict. Inputs:
        floating-point, (N, ...). Targets: class numbers (N,), or soft already (N, classes). Other
        parts stay as they are.
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
    >>> from eventbus.handlers import MixUp
    >>> bus = EventBus()
    >>> _ = bus.attach(MixUp(classes=2, alpha=1.0, seed=3))
    >>> batch = torch.tensor([[0.0], [10.0]]), torch.tensor([0, 1])
    >>> inputs, targets = bus.bind(sender="train").transform("batch_loaded", batch, epoch=1, step=1)
    >>> torch.allclose(inputs[:, 0], 10 * targets[:, 1]), targets.sum(1)
    (True, tensor([1., 1.]))
    """

    def __init__(
        self,
        classes: int,
        *,
        alpha: float = 0.2,
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
        if not inputs.is_floating_point():
            raise TypeError(f"MixUp takes floating-point inputs, got {inputs.dtype}")
        share = drawn_proportion(self.alpha, self.generator)
        return share * inputs + (1.0 - share) * inputs[partners], share
