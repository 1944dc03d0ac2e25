"""Which instances of a large bag a step of INS contrasts."""

import torch
from torch import nn

from models.ops.bags.keyed_random import draw_key, random_order
from tests.support.ins_case import bag_batch, learner, memory_for


def test_a_step_contrasts_few_instances_of_a_large_bag_and_all_of_a_small_one():
    model = learner(max_anchors=3, queue_size=50, least_positives=0)
    bags = bag_batch([20, 2, 9], [1, 0, 1])
    memory = memory_for(model, bags)
    torch.manual_seed(5)
    model.training_losses(bags, 0.5, memory)
    assert memory.queue_next.item() == 3 + 2 + 3
    assert (memory.targets[:20] != 0.5).any(dim=1).all()  # the table has moved for all
    keys = memory.queue[:3]
    torch.manual_seed(5)
    first = random_order(bags.bag(0), draw_key()).argsort()[:3].sort().values
    chosen = model.key_project(model.key_embed(bags.features[first]))
    wanted = nn.functional.normalize(chosen, dim=1)
    torch.testing.assert_close(keys, wanted, rtol=0, atol=1e-6)
    alone = memory_for(model, bags)
    torch.manual_seed(5)
    model.training_losses(bags.bag(0), 0.5, alone)
    torch.testing.assert_close(alone.queue[:3], keys, rtol=0, atol=1e-6)
    torch.manual_seed(6)
    model.training_losses(bags.bag(0), 0.5, alone)
    assert not torch.allclose(alone.queue[3:6], keys)  # another choice in another step


def test_the_likeliest_positives_are_always_among_the_contrasted():
    model = learner(max_anchors=3, least_positives=2, queue_size=6)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([9.0, -9.0]))
    bags = bag_batch([40, 50], [1, 1])
    memory = memory_for(model, bags)
    model.training_losses(bags, 0.5, memory)
    assert memory.queue_labels[:3].sum() == memory.queue_labels[3:].sum() == 2


def test_of_a_large_negative_bag_chance_alone_chooses_the_contrasted():
    model = learner(max_anchors=2, least_positives=2, queue_size=6)
    bags = bag_batch([40], [0])
    torch.manual_seed(5)
    first = random_order(bags, draw_key()).argsort()[:2].sort().values
    memory = memory_for(model, bags)
    torch.manual_seed(5)
    model.training_losses(bags, 0.5, memory)
    wanted = nn.functional.normalize(
        model.key_project(model.key_embed(bags.features[first])), dim=1
    )
    torch.testing.assert_close(memory.queue[:2], wanted, rtol=0, atol=1e-6)
