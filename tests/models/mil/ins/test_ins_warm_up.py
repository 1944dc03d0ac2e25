"""The warm-up of INS, and what training knows of instances."""

import dataclasses

import torch

from tests.support.ins_case import bag_batch, learner, memory_for


def test_the_warm_up_trains_on_instances_of_positive_bags_alone():
    model, bags = learner(), bag_batch([3, 2, 4], [0, 1, 0])
    memory, alone = memory_for(model, bags), memory_for(model, bags)
    terms = model.training_losses(bags, 0.0, memory)
    wanted = model.training_losses(bags.bag(1), 0.0, alone)
    for name in ("instance", "contrast"):
        torch.testing.assert_close(terms[name], wanted[name], rtol=0, atol=1e-6)
    assert memory.queue_next.item() == 2
    torch.testing.assert_close(memory.prototypes, alone.prototypes, rtol=0, atol=1e-6)
    assert terms["pooled"] != wanted["pooled"]  # whole bags of both classes
    model.training_losses(bags, 0.5, memory)
    assert memory.queue_next.item() == (2 + 9) % 11


def test_a_warm_up_step_without_a_positive_bag_trains_the_pooled_head():
    model, bags = learner(), bag_batch([3, 2], [0, 0])
    memory = memory_for(model, bags)
    terms = model.training_losses(bags, 0.0, memory)
    assert terms["instance"] == terms["contrast"] == 0 < terms["pooled"]
    assert memory.queue_next.item() == 0 and not memory.prototypes.any()
    torch.stack([*terms.values()]).sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_training_does_not_read_instance_labels():
    """The authors' loader gives the loss the labels of patches (A372)."""
    found = []
    for told in (None, torch.tensor([1, 0, 0, 1, 1])):
        model, bags = (
            learner(),
            dataclasses.replace(bag_batch([3, 2], [1, 0]), instance_labels=told),
        )
        memory = memory_for(model, bags)
        torch.manual_seed(0)
        terms = model.training_losses(bags, 0.5, memory)
        found.append((*terms.values(), memory.targets))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
