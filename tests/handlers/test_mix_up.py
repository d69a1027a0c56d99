"""MixUp: weighted means of samples, and of their targets alike."""

from __future__ import annotations

import pytest
import torch

from eventbus.handlers import MixUp

from .mixing import mixed, numbered, share_of


def test_mixup_takes_weighted_means_of_two_samples() -> None:
    images, labels = numbered()
    inputs, targets = mixed(MixUp(6, alpha=1.0, seed=4), (images, labels))
    means = targets @ labels.float()  # what the targets say that the values are
    assert 0 < share_of(targets) < 1
    torch.testing.assert_close(inputs, means.reshape(-1, 1, 1, 1).expand_as(images))


def test_mixup_mixes_with_a_permutation_of_the_batch() -> None:
    _, targets = mixed(MixUp(6, alpha=1.0, seed=4), numbered())
    torch.testing.assert_close(targets.sum(0), torch.ones(6))
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert (targets > 0).sum() > 6


def test_mixup_takes_inputs_of_any_shape_and_floating_type() -> None:
    labels = torch.tensor([0, 1])
    for inputs in (torch.rand(2), torch.rand(2, 5, dtype=torch.float64), torch.rand(2, 1).half()):
        result, _ = mixed(MixUp(2), (inputs, labels))
        assert (result.shape, result.dtype) == (inputs.shape, inputs.dtype)


def test_mixup_refuses_whole_numbers() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"MixUp takes floating-point inputs, got torch\.uint8"):
        mixed(MixUp(2), (images, torch.tensor([0, 1])))
