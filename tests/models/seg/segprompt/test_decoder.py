"""Which queries attend to which, and where examples look."""

import dataclasses

import pytest
import torch

from models.seg.queries.targets import Matched
from models.seg.segprompt.decoder import attention_table, example_regions


@pytest.mark.parametrize(("groups", "repeat"), [(30, 10), (30, 1)])
def test_attention_table(groups, repeat):
    """Section 4.2 of the specification, rule by rule."""
    own, prompts, examples = 100, groups * repeat, 5
    shown = torch.ones(2, examples, dtype=torch.bool)
    shown[1, 3:] = False
    table = attention_table(own, groups, repeat, shown)
    total = own + prompts + examples
    assert table.shape == (2, total, total)

    def kind(number):
        return 0 if number < own else 1 if number < own + prompts else 2

    for image in range(2):
        expected = torch.zeros(total, total, dtype=torch.bool)
        for row in range(total):
            for column in range(own) if kind(row) < 2 else ():
                expected[row, column] = True
            for column in range(own, own + prompts) if kind(row) == 1 else ():
                expected[row, column] = (row - own) // repeat == (column - own) // repeat
            for column in range(own + prompts, total) if kind(row) == 2 else ():
                both = shown[image, row - own - prompts] & shown[image, column - own - prompts]
                expected[row, column] = both or row == column
        assert torch.equal(table[image], expected)
    assert bool(table.any(dim=2).all())


def test_what_the_table_blocks_is_not_seen(segprompt, scene):
    """Outputs of an example change neither queries nor prompts, and the other way round."""
    model = segprompt(examples=2)
    batch = scene([(64, 64)], [2], seed=1)[0]
    terms = model.losses(batch, key=1)
    changed = dataclasses.replace(batch, masks=batch.masks.roll(16, dims=2))
    two = segprompt(examples=0).losses(batch, key=1)
    for name in ("prompt_class", "prompt_mask", "prompt_dice"):
        torch.testing.assert_close(terms[name], two[name], rtol=1e-5, atol=1e-5)
    assert not torch.equal(model.losses(changed, key=1)["example_class"], terms["example_class"])
    three = segprompt(prompt_categories=0, examples=2)
    three.load_state_dict(model.state_dict())
    alone = three.losses(batch, key=1)
    for name in ("example_class", "example_mask", "example_dice"):
        torch.testing.assert_close(terms[name], alone[name], rtol=1e-5, atol=1e-5)


def test_regions_of_examples(scene):
    batch = scene([(64, 64), (64, 32)], [1, 1], seed=1)[0]
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:24, 16:40] = True
    masks[1, 1, 1] = True  # between the centres of the cells
    batch = dataclasses.replace(batch, masks=masks)
    both = torch.arange(2)
    examples = Matched(both, torch.zeros(2, dtype=torch.int64), both * 0, both, both * 0)
    levels = [(2, 2), (8, 8)]
    coarse, fine = example_regions(batch, examples, 2, (64, 64), levels)
    assert coarse.shape == (2, 2, 4)
    assert coarse[0, 0].view(2, 2).tolist() == [[True, False], [False, False]]
    inside = fine[0, 0].view(8, 8)
    assert inside[1:3, 2:5].all()
    assert int(inside.sum()) == 6
    left = torch.zeros(8, 8, dtype=torch.bool)
    left[:, :4] = True
    assert torch.equal(fine[1, 0].view(8, 8), left)  # no cell of its own: all valid ones
    assert torch.equal(fine[1, 1].view(8, 8), left)  # an example that does not exist
