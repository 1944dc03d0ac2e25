"""What processes tell each other, on one process; several are in tests/processes."""

import math

import pytest
import torch

from lightning_modules.item_losses import ItemLosses, SplitRisks
from structures.processes import mean_over_processes


def test_item_losses_are_means_over_items_not_over_batches():
    losses = ItemLosses()
    losses.add(torch.tensor([0, 1, 2]), ("a", "b", "c"), {"bag": torch.tensor([1.0, 2.0, 3.0])})
    losses.add(torch.tensor([3]), ("d",), {"bag": torch.tensor([10.0])})
    losses.add(torch.tensor([2]), ("c",), {"bag": torch.tensor([3.0])})  # repeated: counts once
    losses.gather()
    assert losses.means() == {"bag": 16 / 4}
    assert losses.not_finite() == []


def test_items_that_are_not_finite_are_named():
    losses = ItemLosses()
    losses.add(torch.tensor([5, 3]), (), {"a": torch.tensor([1.0, math.inf])})
    losses.add(torch.tensor([4]), ("slide",), {"a": torch.tensor([math.nan])})
    assert losses.not_finite() == ["3", "slide"]


def test_no_item_has_no_mean():
    assert ItemLosses().means() == {}
    assert math.isnan(mean_over_processes(torch.tensor(math.nan)))
    with pytest.raises(ValueError, match="zip"):
        ItemLosses().add(torch.tensor([0, 1]), ("one",), {"a": torch.zeros(2)})


def test_items_without_a_target_are_left_out_of_a_term():
    losses = ItemLosses()
    terms = {"bag": torch.tensor([1.0, 0.0, 5.0]), "other": torch.tensor([1.0, 1.0, 4.0])}
    out = {"bag": torch.tensor([False, True, False])}
    losses.add(torch.tensor([0, 1, 2]), ("a", "b", "c"), terms, out)
    assert losses.means() == {"bag": 3.0, "other": 2.0}
    alone = ItemLosses()
    alone.add(
        torch.tensor([1]), ("b",), {"bag": torch.tensor([0.0])}, {"bag": torch.tensor([True])}
    )
    assert alone.means() == {"bag": 0.0}
    assert alone.not_finite() == []


def test_risks_of_a_split_count_once_in_any_batches():
    labels = torch.tensor([[2.0, 1], [1, 1], [3, 0]]).double()
    risks, here = torch.tensor([[[0.5], [9.0]], [[-1.0], [1.0]], [[2.0], [0.0]]]), torch.ones(3, 2)
    here = here.bool()
    here[0, 1] = False
    split = SplitRisks()
    split.add(torch.tensor([7, 4]), labels[:2], {"bag": (risks[:2], here[:2])})
    split.add(torch.tensor([4, 9]), labels[1:], {"bag": (risks[1:], here[1:])})
    split.gather()
    first = [
        math.log(sum(map(math.exp, (0.5, -1.0, 2.0)))) + 1,
        math.log(math.exp(0.5) + math.exp(2.0)) - 0.5,
    ]
    second = math.log(math.exp(1.0) + 1) - 1
    wanted = (first[1] + (first[0] + second) / 2) / 2
    assert split.means() == pytest.approx({"bag": wanted})
    assert SplitRisks().means() == {}
