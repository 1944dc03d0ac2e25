import math

import pytest
import torch

from models.losses.bag_classification import bag_classification_loss, mean_over_bags


def test_binary_by_hand():
    # log-odds log 3 is probability 3/4: -log 3/4 for class 1, -log 1/4 for class 0
    logits = torch.tensor([[math.log(3)], [math.log(3)]])
    loss = bag_classification_loss(logits, torch.tensor([1, 0]), "binary")
    expected = torch.tensor([-math.log(0.75), -math.log(0.25)])
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)


def test_multiclass_by_hand():
    logits = torch.tensor([[1.0, 2.0, 5.0]]).log()  # probabilities 1/8, 2/8, 5/8
    loss = bag_classification_loss(logits, torch.tensor([1]), "multiclass")
    torch.testing.assert_close(loss, torch.tensor([math.log(4)]), rtol=0, atol=1e-6)


def test_multilabel_is_the_mean_over_labels():
    logits = torch.tensor([[math.log(3), 0.0]])
    loss = bag_classification_loss(logits, torch.tensor([[0, 1]]), "multilabel")
    expected = torch.tensor([(math.log(4) + math.log(2)) / 2])
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)


def test_large_logits_stay_finite_in_half_precision():
    logits = torch.tensor([[30000.0]], dtype=torch.float16)
    loss = bag_classification_loss(logits, torch.tensor([0]), "binary")
    assert loss.tolist() == [30000.0]


@pytest.mark.parametrize("gradients", [True, False])
def test_mean_over_bags_on_one_process(gradients):
    with torch.set_grad_enabled(gradients):
        assert mean_over_bags(torch.tensor([1.0, 2.0, 6.0])).item() == 3
