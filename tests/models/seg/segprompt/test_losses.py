"""Losses of prompts and examples on small outputs, with values by hand."""

import dataclasses
import math

import pytest
import torch

from models.ops.distributed import reduce_terms
from models.seg.queries.mask_classification import MaskLossOptions, random_points
from models.seg.segprompt.drawing import PromptOptions, draw
from models.seg.segprompt.losses import MaskContext, example_terms, prompt_terms

OPTIONS = MaskLossOptions(num_points=64)
LARGE = 20.0


@pytest.fixture
def batch(scene):
    """Two squares of the categories 0 and 2; category 1 is said to be there as well."""
    batch, _, _ = scene([(64, 64)], [2], seed=3)
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:40, 8:40] = True
    masks[1, 40:64, 32:64] = True
    named = torch.tensor([[False, True, False, False]])
    labels = torch.tensor([0, 2])
    return dataclasses.replace(batch, masks=masks, labels=labels, not_exhaustive=named)


def setting(batch, categories=4, repeat=2, examples=2):
    """Return the draws, and the context of masks whose channels are the two objects."""
    drawn = draw(batch, 0, 4, 3, PromptOptions(categories, repeat, examples, min_area=10))
    fine = batch.masks[None, :, 2::4, 2::4].float()  # (1, 2, 16, 16)
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    points = random_points(batch, (64, 64), OPTIONS, 0)
    return drawn, MaskContext(batch, fine, valid, points, OPTIONS)


def embedding(which):
    """Return the embeddings of masks: the object of each number, nothing for None."""
    table = torch.zeros(1, len(which), 2)
    for place, number in enumerate(which):
        if number is not None:
            table[0, place, number] = 2 * LARGE
    return table.requires_grad_(), torch.full((1, len(which), 1), -LARGE)


def terms_of(drawn, context, which, logits):
    terms = prompt_terms([logits], [embedding(which)], drawn, context)
    return reduce_terms(terms, "mean")


def test_prompts_find_the_objects_of_their_category(batch):
    drawn, context = setting(batch)
    categories = drawn.categories[0].tolist()
    # the second prompt of a category has its mask, all others have that of the other object
    first = {category: categories.index(category) for category in range(4)}
    which = [{0: 1, 2: 0}.get(c, 0) for c in categories]
    which[first[0] + 1], which[first[2] + 1] = 0, 1
    is_object = torch.tensor([c == 1 for c in categories])
    is_object[[first[0] + 1, first[2] + 1]] = True
    logits = torch.where(is_object, LARGE, -LARGE)[None, :, None] * torch.tensor([1.0, -1.0])
    found = terms_of(drawn, context, which, logits)
    assert float(found["prompt_class"]) < 1e-6
    assert float(found["prompt_dice"].detach()) < 0.1  # masks at stride 4 against pixels
    crossed = [{0: 1, 2: 0, 1: 0, 3: 1}[c] for c in categories]  # right, of another category
    assert float(terms_of(drawn, context, crossed, logits)["prompt_dice"].detach()) > 0.8


def test_class_loss_by_hand(batch):
    """2 of 8 prompts are matched, 2 are of a category without a mask: weights 4 and 4 x 0.1."""
    drawn, context = setting(batch)
    logits = torch.zeros(1, 8, 2)
    logits[0, :, 0] = 1.0
    probability = math.e / (math.e + 1)
    expected = 4 * -math.log(probability) + 0.4 * -math.log(1 - probability)
    found = terms_of(drawn, context, [None] * 8, logits)
    assert float(found["prompt_class"]) == pytest.approx(expected / 4.4, rel=1e-5)


def test_categories_without_a_mask_have_a_class_and_no_mask_loss(batch):
    drawn, context = setting(batch)
    own = torch.tensor([c == 1 for c in drawn.categories[0].tolist()])
    logits = torch.zeros(1, 8, 2, requires_grad=True)
    masks, bias = embedding([0] * 8)
    terms = prompt_terms([logits], [(masks, bias)], drawn, context)
    sum(terms[name].total.sum() for name in ("prompt_mask", "prompt_dice")).backward()
    assert logits.grad is None
    assert not masks.grad[0, own].any()
    assert masks.grad[0].abs().sum(dim=1).count_nonzero() == 2  # the matched ones alone
    terms["prompt_class"].total.sum().backward()
    assert (logits.grad[0, own, 0] < 0).all()  # towards object


def test_an_image_without_objects(batch):
    none = dataclasses.replace(batch, crowd=torch.ones(2, dtype=torch.bool), not_exhaustive=None)
    drawn, context = setting(none)
    logits = torch.zeros(1, 8, 2, requires_grad=True)
    masks = embedding([0] * 8)
    found = reduce_terms(prompt_terms([logits], [masks], drawn, context), "mean")
    assert float(found["prompt_mask"].detach()) == float(found["prompt_dice"].detach()) == 0
    assert float(found["prompt_class"].detach()) == pytest.approx(math.log(2))
    shown = reduce_terms(
        example_terms([logits[:, :2]], [embedding([0, 1])], drawn, context), "mean"
    )
    assert [float(term.detach()) for term in shown.values()] == [0, 0, 0]
    assert all(term.requires_grad for term in (*found.values(), *shown.values()))


def test_examples_learn_their_own_object(batch):
    drawn, context = setting(batch, examples=3)
    which = [*drawn.examples.rows.tolist(), None]
    logits = torch.tensor([[[LARGE, -LARGE], [LARGE, -LARGE], [-LARGE, LARGE]]])
    right = reduce_terms(example_terms([logits], [embedding(which)], drawn, context), "mean")
    assert float(right["example_class"]) < 1e-6  # the third does not exist
    assert float(right["example_dice"].detach()) < 0.1
    wrong = [1 - which[0], 1 - which[1], None]
    other = reduce_terms(example_terms([logits], [embedding(wrong)], drawn, context), "mean")
    assert float(other["example_dice"].detach()) > 0.8
