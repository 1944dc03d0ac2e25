"""Scores of SWORD against their formulas."""

import pytest
import torch

from models.seg.sword.scores import score_logits

P = torch.tensor([[[0.9, 0.2], [0.5, 0.01]]])
BOX = torch.tensor([[[0.4], [0.8]]])
MASK = torch.tensor([[[0.3], [0.6]]])


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("cls", P),
        ("iou", BOX.expand(1, 2, 2)),
        ("product", P * BOX),
        ("geometric", (P * BOX).sqrt()),
        ("cube_root", (P * BOX * MASK) ** (1 / 3)),
    ],
)
def test_the_scores_are_those_of_the_formula(score, expected):
    found = score_logits(P.logit(), BOX.logit(), MASK.logit(), score).sigmoid()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("score", ["product", "geometric", "cube_root"])
def test_scores_rise_with_every_factor_also_near_0_and_1(score):
    logits = torch.linspace(-60, 15, 26).view(1, -1, 1)
    fixed = torch.full_like(logits, 15.0)
    for factors in ((logits, fixed, fixed), (fixed, logits, fixed), (fixed, fixed, logits)):
        found = score_logits(*factors, score).flatten()
        assert bool(found.isfinite().all())
        rises = bool((found.diff() > 0).all())
        assert rises == (score == "cube_root" or factors[2] is fixed)


def test_half_precision_is_converted():
    half = torch.zeros(1, 2, 1, dtype=torch.bfloat16)
    for score in ("cls", "iou", "geometric"):
        assert score_logits(half, half, half, score).dtype == torch.float32
