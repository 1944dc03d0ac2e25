"""Contrast of SWORD by hand-computed values."""

import math

import pytest
import torch
import torch.nn.functional as F

from models.seg.sword.contrast import contrast_term, outside_negatives

CENTRE = torch.tensor([1.0, 0.0])


def at(*cosines):
    """Return unit vectors (1, N, 2) whose products with the centre are the cosines."""
    cosine = torch.tensor(cosines)
    return torch.stack([cosine, (1 - cosine**2).sqrt()], dim=1)[None]


def contrast(embeddings, owners, negative, form="mean", temperature=0.5, counts=None):
    owners, negative = torch.tensor(owners), torch.tensor(negative, dtype=torch.bool)
    counts = counts or [int(owners.max()) + 1]
    return contrast_term(embeddings, CENTRE, owners, negative, counts, temperature, form)


def test_mean_by_hand():
    """Two positives at .8 and .5, negatives at 0 and -.5, one query that is neither."""
    found = contrast(at(0.8, 0.5, 0.0, -0.5, 0.9), [[0, 0, -1, -1, -1]], [[0, 0, 1, 1, 0]])
    against = math.exp(0) + math.exp(-1)
    first = -math.log(math.exp(1.6) / (math.exp(1.6) + against))  # .8 / t
    second = -math.log(math.exp(1.0) / (math.exp(1.0) + against))
    assert found.total.tolist() == pytest.approx([first + second], rel=1e-6)
    assert found.count.tolist() == [2]


def test_sum_by_hand():
    """The first object has two positives, the second none, the third one."""
    found = contrast(
        at(0.8, 0.5, 0.0, -0.5, 0.9), [[0, 0, 2, -1, -1]], [[0, 0, 0, 1, 1]], form="sum"
    )
    against = math.exp(-1) + math.exp(1.8)
    own = math.exp(1.6) + math.exp(1.0)
    expected = -math.log(own / (own + against)) - math.log(1 / (1 + against))
    assert found.total.tolist() == pytest.approx([expected], rel=1e-6)
    assert found.count.tolist() == [2]


@pytest.mark.parametrize("form", ["mean", "sum"])
def test_images_are_independent_of_each_other(form):
    """An image has its own negatives; one without positives or negatives has no loss."""
    embeddings = F.normalize(
        torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(0)), dim=2
    )
    owners = [[0, 1, 1, -1, -1, -1], [-1] * 6, [2, -1, -1, -1, -1, -1]]
    negative = [[0, 0, 0, 1, 1, 0], [1] * 6, [0] * 6]
    both = contrast(embeddings, owners, negative, form, counts=[2, 0, 1])
    alone = contrast(embeddings[:1], owners[:1], negative[:1], form, counts=[2])
    torch.testing.assert_close(both.total[0], alone.total[0])
    assert both.total[1:].tolist() == [0, 0]
    assert both.count[1:].tolist() == [0, 1]


@pytest.mark.parametrize("form", ["mean", "sum"])
def test_it_falls_when_positives_approach_the_centre_and_negatives_leave(form):
    values = [
        contrast(at(near, 0.3, far), [[0, 0, -1]], [[0, 0, 1]], form).total.item()
        for near, far in ((0.2, 0.5), (0.6, 0.5), (0.9, 0.5), (0.9, 0.1), (0.9, -0.8))
    ]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 5


@pytest.mark.parametrize("form", ["mean", "sum"])
@pytest.mark.parametrize("temperature", [1e-3, 10.0])
def test_gradients_are_finite_and_right(form, temperature):
    embeddings = torch.randn(
        2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    owners, negative = [[0, 0, -1, -1, -1], [-1] * 5], [[0, 0, 1, 1, 0], [0] * 5]

    def total(values):
        return contrast(values, owners, negative, form, temperature, counts=[1, 0]).total.sum()

    if temperature > 1:
        assert torch.autograd.gradcheck(total, embeddings.requires_grad_())
    values = embeddings.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(total(values), values)
    assert bool(gradient.isfinite().all())
    assert gradient[1].abs().sum() == 0  # an image without objects is connected, with 0
    assert gradient[0, 4].abs().sum() == 0  # neither positive nor negative


def test_outside_negatives_are_ten_a_positive_and_depend_on_image_and_step_alone():
    owners = torch.full((2, 50), -1)
    owners[0, :2] = 0  # two positives, 48 others of which 40 are free
    free = torch.zeros(2, 50, dtype=torch.bool)
    free[:, 10:] = True
    index = torch.tensor([7, 8])
    found = outside_negatives(owners, free, index, key=3)
    assert found.sum(dim=1).tolist() == [20, 0]
    assert not bool((found & ~free).any())
    alone = outside_negatives(owners[:1], free[:1], index[:1], key=3)
    assert torch.equal(found[:1], alone)
    for other in ((torch.tensor([9]), 3), (index[:1], 4)):
        assert not torch.equal(alone, outside_negatives(owners[:1], free[:1], *other))
    few = free.clone()
    few[0, 15:] = False  # all five that are free
    assert torch.equal(outside_negatives(owners, few, index, key=3)[0], few[0])
