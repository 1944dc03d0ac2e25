"""What processes tell each other, on one process; several are in tests/processes."""

import math

import pytest
import torch

from lightning_modules.item_losses import ItemLosses
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
