"""Losses of masks at points: values by hand, pairs against single masks."""

import math

import pytest
import torch

from models.losses.mask import dice_loss, mask_bce, pairwise_mask_losses


def test_values_by_hand():
    logits = torch.tensor([[0.0, math.log(3)]])  # probabilities 1/2 and 3/4
    targets = torch.tensor([[1.0, 0.0]])
    assert float(mask_bce(logits, targets)) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert float(dice_loss(logits, targets)) == pytest.approx(1 - (2 * 0.5 + 1) / (1.25 + 1 + 1))


def test_pairs_are_what_single_masks_are():
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(5, 40, generator=generator)
    targets = torch.rand(3, 40, generator=generator)
    bce, dice = pairwise_mask_losses(logits.T, targets.T)
    for number in range(3):
        same = targets[number : number + 1].expand(5, -1)
        torch.testing.assert_close(bce[:, number], mask_bce(logits, same))
        torch.testing.assert_close(dice[:, number], dice_loss(logits, same))


def test_half_precision_is_computed_in_float32():
    logits = torch.tensor([[100.0, -100.0]], dtype=torch.bfloat16)
    for loss in (mask_bce, dice_loss):
        assert loss(logits, torch.tensor([[True, False]])).dtype == torch.float32
        assert float(loss(logits, torch.tensor([[True, False]]))) == pytest.approx(0, abs=1e-6)
