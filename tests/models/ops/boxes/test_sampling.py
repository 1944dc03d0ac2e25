"""Keyed sampling: reproducible, independent of neighbours, uniform."""

import torch

from models.ops.boxes.sampling import choose, image_generator, sample_balanced


def draw(*seed):
    return torch.rand(4, generator=image_generator(*seed)).tolist()


def test_generator_depends_on_each_part_of_its_seed():
    assert draw(1, 2, 3) == draw(1, 2, 3)
    seen = {
        tuple(draw(key, index, stream))
        for key in range(6)
        for index in range(6)
        for stream in range(3)
    }
    assert len(seen) == 6 * 6 * 3
    assert draw(-1, 2) != draw(1, 2)


def test_choose_keeps_everything_when_it_fits():
    positions = torch.tensor([4, 9, 2])
    generator = image_generator(0, 0)
    state = generator.get_state()
    assert choose(positions, 3, generator) is positions
    assert torch.equal(generator.get_state(), state)
    assert choose(positions, 0, generator).tolist() == []


def test_choose_is_uniform_without_replacement():
    positions = torch.arange(10) * 3
    counts = torch.zeros(10)
    for key in range(2000):
        chosen = choose(positions, 4, image_generator(key, 5))
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        counts[chosen // 3] += 1
    # each is chosen with probability 0.4: standard deviation sqrt(2000 * 0.24) = 22
    assert (counts - 800).abs().max() < 5 * 22


def test_sample_balanced_budget():
    labels = torch.tensor([2] * 10 + [0] * 50 + [-1] * 40)
    positive, negative = sample_balanced(labels, 16, 0.25, image_generator(0, 0))
    assert len(positive) == 4
    assert len(negative) == 12
    assert (labels[positive] > 0).all()
    assert (labels[negative] == 0).all()
    positive, negative = sample_balanced(labels, 200, 0.5, image_generator(0, 0))
    assert positive.tolist() == list(range(10))
    assert negative.tolist() == list(range(10, 60))


def test_few_positives_are_filled_up_with_negatives():
    labels = torch.tensor([1] + [0] * 50)
    positive, negative = sample_balanced(labels, 16, 0.5, image_generator(0, 0))
    assert (len(positive), len(negative)) == (1, 15)
    positive, negative = sample_balanced(-torch.ones(5), 16, 0.5, image_generator(0, 0))
    assert (len(positive), len(negative)) == (0, 0)
