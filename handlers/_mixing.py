"""What MixUp and CutMix share: parts of a batch, soft targets, partners and proportions."""

from __future__ import annotations

import copy
import random
from abc import abstractmethod
from collections import UserDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eventbus.arrival import arrives_late

from ._arguments import When, number_given
from ._batch_alteration import BatchAlteration

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Mixing", "drawn_proportion", "soft", "with_parts"]

Key = int | str


class Mixing(BatchAlteration):
    """Mixes each sample of a batch with another one of it, and their targets alike.

    Parameters
    ----------
    classes
        How many, at least 1.
    alpha
        The proportions are drawn from Beta(alpha, alpha), above 0.
    probability
        With which a batch is mixed, 0 to 1; in the others only the targets become soft.
    inputs, targets
        Where these are in a batch: positions in a tuple or list, keys in a dict.
    seed, when
        As for any alteration.
    """

    def __init__(
        self,
        classes: int,
        *,
        alpha: float,
        probability: float,
        inputs: Key,
        targets: Key,
        seed: int,
        when: When | None,
    ) -> None:
        super().__init__(seed, when)
        self._check(classes, alpha, probability)
        self.classes, self.alpha, self.probability = classes, alpha, probability
        self.inputs, self.targets = inputs, targets

    def _check(self, classes: int, alpha: float, probability: float) -> None:
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
            raise ValueError(f"{self._name} takes the number of classes, from 1; got {classes!r}")
        number_given(self._name, "alpha", alpha)
        number_given(self._name, "probability", probability)
        if not 0 < alpha < float("inf"):
            raise ValueError(f"{self._name}: alpha is finite and above 0, got {alpha!r}")
        if not 0 <= probability <= 1:
            raise ValueError(f"{self._name}: probability is from 0 to 1, got {probability!r}")

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _altered(self, batch: Any) -> Any:
        inputs, targets = self._part(batch, self.inputs), self._part(batch, self.targets)
        mixed = soft(targets, self.classes, self._name)
        if drawn_fraction(self.generator) < self.probability:
            partners = _partners(len(inputs), inputs.device, self.generator)
            inputs, share = self._mixed(inputs, partners)
            mixed = share * mixed + (1.0 - share) * mixed[partners.to(mixed.device)]
        return with_parts(batch, {self.inputs: inputs, self.targets: mixed})

    @abstractmethod
    def _mixed(self, inputs: Tensor, partners: Tensor) -> tuple[Tensor, float]:
        """Mix the inputs with their partners'; return them and the share that is their own."""

    def _part(self, batch: Any, key: Key) -> Tensor:
        import torch

        try:
            part = batch[key]
        except (TypeError, LookupError) as error:
            kind = type(batch).__name__
            raise TypeError(
                f"{self._name}: there is no {key!r} in a batch that is a {kind}"
            ) from error
        if not isinstance(part, torch.Tensor):
            kind = type(part).__name__
            raise TypeError(f"{self._name}: {key!r} of a batch must be a tensor, got a {kind}")
        return part


def soft(targets: Tensor, classes: int, owner: str = "soft") -> Tensor:
    """Return class probabilities: shape (N, classes), floating-point, on the device of `targets`.

    Class numbers, shape (N,), become one-hot; what is soft already is returned as it is. Nothing is
    read: on a device a class number that is too large is found by the device alone.

    Raises
    ------
    TypeError
        Neither of both.

    Examples
    --------
    >>> import torch
    >>> from eventbus.handlers._mixing import soft
    >>> soft(torch.tensor([1, 0]), classes=3)
    tensor([[0., 1., 0.],
            [1., 0., 0.]])
    """
    if targets.is_floating_point() and targets.shape[1:] == (classes,):
        return targets
    if targets.dim() != 1 or targets.is_floating_point() or targets.is_complex():
        raise TypeError(
            f"{owner} takes class numbers of shape (N,) or probabilities of shape (N, {classes}); "
            f"got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    return _one_hot(targets.long(), classes)


def _one_hot(targets: Tensor, classes: int) -> Tensor:
    import torch

    # `one_hot` would read the targets on some devices.
    blank = torch.zeros(len(targets), classes, device=targets.device)
    return blank.scatter_(1, targets.unsqueeze(1), 1.0)


def drawn_proportion(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha), with a generator on the CPU.

    torch's own Beta takes no generator; Python's is seeded from it, once for each draw.
    """
    import torch

    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    return random.Random(seed).betavariate(alpha, alpha)


def drawn_fraction(generator: torch.Generator) -> float:
    """Draw from the uniform distribution over [0, 1), with a generator on the CPU."""
    import torch

    return float(torch.rand((), dtype=torch.float64, generator=generator))


def drawn_below(bound: int, generator: torch.Generator) -> int:
    """Draw a whole number from 0 to below `bound`, with a generator on the CPU."""
    import torch

    return int(torch.randint(bound, (), generator=generator))


def _partners(count: int, device: torch.device, generator: torch.Generator) -> Tensor:
    """Draw a permutation, and have it on a device without waiting for it."""
    import torch

    is_late = arrives_late(device)
    order = torch.randperm(count, generator=generator, pin_memory=is_late)
    return order.to(device, non_blocking=is_late)


def with_parts(batch: Any, parts: Mapping[Any, Any]) -> Any:
    """Return a batch of the same kind with some parts replaced; the old one is not changed.

    A mapping that is not a dict of some class becomes a plain one.

    Examples
    --------
    >>> from eventbus.handlers._mixing import with_parts
    >>> with_parts((1, 2, 3), {0: 10}), with_parts({"x": 1, "id": 2}, {"x": 10})
    ((10, 2, 3), {'x': 10, 'id': 2})
    """
    if isinstance(batch, Mapping):
        return _with_items(batch, parts)
    values = list(batch)
    for position, value in parts.items():
        values[position] = value
    if isinstance(batch, tuple):
        named = getattr(batch, "_make", None)
        return tuple(values) if named is None else named(values)
    return values


def _with_items(batch: Mapping[Any, Any], parts: Mapping[Any, Any]) -> Any:
    if not isinstance(batch, dict | UserDict):
        return {**batch, **parts}  # a copy may share its items with the old one, or take no others
    new = copy.copy(batch)  # keeps the class, and what it has besides the items
    for key, part in parts.items():
        new[key] = part
    return new
