import dataclasses

import numpy as np
import torch

from callbacks.mil.bag_outputs import bag_attention, bag_name
from structures import BagBatch


def test_attention_is_split_by_bag(stand_in):
    bags = BagBatch.collate([stand_in.bag(n) for n in (5, 2)])  # 2 and 4 instances
    bags = dataclasses.replace(bags, coords=torch.arange(12).reshape(6, 2))
    first, second = bag_attention(bags, torch.tensor([0.25, 0.75, 0.1, 0.2, 0.3, 0.4]))
    assert (first.index, first.bag_id, second.index) == (5, "case 5", 2)
    np.testing.assert_allclose(first.weights, [[0.25], [0.75]])
    np.testing.assert_allclose(second.weights[:, 0], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)
    assert first.witness.tolist() == [0, 1]
    assert second.coords.tolist() == [[4, 5], [6, 7], [8, 9], [10, 11]]


def test_branches_and_missing_facts(stand_in):
    bags = dataclasses.replace(stand_in.bag(1), instance_labels=None, bag_ids=())
    (one,) = bag_attention(bags, torch.tensor([[0.5, 0.1, 0.2], [0.5, 0.9, 0.8]]))
    np.testing.assert_allclose(one.weights[1], [0.5, 0.9, 0.8])
    assert one.witness is None
    assert one.coords is None
    assert one.bag_id == bag_name(bags, 0) == "1"


def test_kept_attention_does_not_hold_the_batch(stand_in):
    bags = BagBatch.collate([stand_in.bag(n) for n in range(4)])
    (first, *_) = bag_attention(bags, torch.rand(len(bags.features)))
    assert first.weights.base is None
    assert first.witness.base is None
