"""Draws of categories, objects and examples, image by image."""

import dataclasses

import pytest
import torch

from models.seg.segprompt.drawing import PromptOptions, draw

CLASSES, QUERIES = 12, 9


@pytest.fixture
def batch(scene):
    """Image 0 has the categories 2, 2, 5 and a crowd of 7; image 1 a small 4; image 2 nothing."""
    batch, _, _ = scene([(64, 64)] * 3, [4, 1, 0], seed=3)
    masks = batch.masks.clone()
    masks[4] = False
    masks[4, 10:14, 10:14] = True
    labels = torch.tensor([2, 2, 5, 7, 4])
    crowd = torch.tensor([False, False, False, True, False])
    return dataclasses.replace(batch, labels=labels, crowd=crowd, masks=masks)


def flags(*rows):
    table = torch.zeros(len(rows), CLASSES, dtype=torch.bool)
    for row, own in enumerate(rows):
        table[row, list(own)] = True
    return table


def drawn(batch, key=0, classes=CLASSES, **options):
    return draw(batch, key, classes, QUERIES, PromptOptions(**({"repeat": 3} | options)))


def groups(one, repeat):
    blocks = one.categories.view(len(one.categories), -1, repeat)
    assert (blocks == blocks[..., :1]).all()  # the prompts of a category stand together
    return [row.tolist() for row in blocks[..., 0]]


def test_order_of_the_categories(batch):
    """Those in the image, then those that were looked for in vain, then any others."""
    batch = dataclasses.replace(
        batch, negative=flags([0, 9], [4, 6], [11]), not_exhaustive=flags([3], [], [1])
    )
    seen = [set(), set(), set()]
    for key in range(40):
        found = groups(drawn(batch, key, categories=7, repeat=2), 2)
        for image, own in enumerate(found):
            assert len(set(own)) == 7
            seen[image] |= set(own[-1:])
        assert set(found[0][:4]) == {2, 5, 7, 3}
        assert set(found[0][4:6]) == {0, 9}
        assert found[1][0] == 4
        assert found[1][1] == 6
        assert found[2][0] == 1
        assert found[2][1] == 11
    assert seen[0] == {1, 4, 6, 8, 10, 11}  # every other category is drawn


def test_more_categories_in_the_image_than_prompts(batch):
    picked = [groups(drawn(batch, key, categories=1, repeat=2), 2)[0][0] for key in range(30)]
    assert set(picked) == {2, 5, 7}


def test_categories_that_are_present_without_a_mask(batch):
    """Image-level labels, crowds and small objects; not those that have masks as well."""
    batch = dataclasses.replace(batch, not_exhaustive=flags([3, 2], [], [1]))
    one = drawn(batch, categories=6, repeat=2)
    for image, expected in enumerate([{3, 7}, {4}, {1}]):
        assert set(one.categories[image][one.present[image]].tolist()) == expected
        assert int(one.present[image].sum()) == 2 * len(expected)
    assert [rows.rows.tolist() for rows in one.objects] == [[0, 1, 2], [], []]
    assert [labels.tolist() for labels in one.labels] == [[2, 2, 5], [], []]
    large = drawn(batch, categories=6, repeat=2, min_area=15)
    assert large.objects[1].rows.tolist() == [4]
    assert not large.present[1].any()


def test_a_category_has_no_more_objects_than_prompts(scene):
    batch = scene([(64, 64)], [7], seed=1)[0]
    batch = dataclasses.replace(batch, labels=torch.tensor([1, 1, 1, 1, 1, 0, 2]))
    kept = [drawn(batch, key, classes=3, categories=3, repeat=2) for key in range(20)]
    assert {tuple(one.labels[0].tolist()) for one in kept} == {(1, 1, 0, 2)}
    assert set(torch.cat([one.objects[0].rows for one in kept]).tolist()) == set(range(7))
    single = drawn(batch, classes=3, categories=3, repeat=1)  # which chooses its object
    assert len(single.labels[0]) == 7


def test_categories_are_repeated_where_there_are_too_few(batch):
    one = drawn(batch, classes=8, categories=20, repeat=3)
    for own in groups(one, 3):
        assert len(own) == 20
        assert {own.count(category) for category in range(8)} == {2, 3}
    assert int((one.categories[0] == 2).sum()) == 9  # those in the image first


def test_queries_of_a_group_are_different(batch):
    one = drawn(batch, categories=5, repeat=4)
    table = one.queries.view(3, 5, 4)
    assert all(len(set(row.tolist())) == 4 for row in table.flatten(0, 1))
    assert 0 <= int(table.min()) <= int(table.max()) < QUERIES
    assert len({tuple(row.tolist()) for row in table.flatten(0, 1)}) > 10


def test_examples_have_each_category_first(batch):
    for key in range(10):
        one = drawn(batch, key, examples=2)
        assert one.shown.tolist() == [[True, True], [False, False], [False, False]]
        assert sorted(one.examples.labels.tolist()) == [2, 5]
    every = drawn(batch, examples=5)
    assert every.shown.sum(dim=1).tolist() == [3, 0, 0]
    assert sorted(every.examples.rows.tolist()) == [0, 1, 2]
    assert every.examples.queries.tolist() == [0, 1, 2]
    assert torch.equal(batch.labels[every.examples.rows], every.examples.labels)


def test_draws_depend_on_key_and_image_alone(batch):
    batch = dataclasses.replace(batch, negative=flags([0], [4], [11]))
    whole = drawn(batch, 5)
    for image in range(3):
        one = drawn(batch.image(image), 5)
        assert torch.equal(one.categories[0], whole.categories[image])
        assert torch.equal(one.queries[0], whole.queries[image])
        assert torch.equal(one.shown[0], whole.shown[image])
    assert not torch.equal(drawn(batch, 6).categories, whole.categories)
    assert not torch.equal(whole.categories[1], whole.categories[2])
