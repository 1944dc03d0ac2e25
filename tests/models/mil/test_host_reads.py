"""A training step waits for the device a fixed number of times, however many bags it has."""

import collections

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.mil_recipes import NAMES, build, prepare, random_bags

READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


class HostReads(TorchDispatchMode):
    """Counts the operations whose result the host has to know."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.__name__.partition(".")[0]
        by_mask = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in arguments[1]
        )
        if name.startswith(READS) or by_mask:
            self.counts[name] += 1
        return function(*arguments, **(options or {}))


def reads(name, bags, monkeypatch):
    """Return what a training step reads, forward and backward."""
    module = prepare(build(name), bags).train()
    listed = torch.Tensor.tolist
    with HostReads() as mode, monkeypatch.context() as patch:

        def tolist(tensor):
            mode.counts["tolist"] += 1
            return listed(tensor)

        patch.setattr(torch.Tensor, "tolist", tolist)
        torch.manual_seed(0)
        torch.stack([*module.training_terms(bags).values()]).sum().backward()
        module.after_optimizer_step()
    return mode.counts


@pytest.mark.parametrize("name", NAMES)
def test_reads_do_not_grow_with_the_bags(name, monkeypatch):
    few, many = (reads(name, random_bags([9] * count), monkeypatch) for count in (2, 10))
    assert few == many


def test_the_count_sees_a_read_a_bag():
    with HostReads() as mode:
        for bag in range(3):
            torch.arange(6)[bag].item()
        torch.ones(3)[torch.tensor([True, False, True])]
        torch.ones(3).nonzero()
    assert dict(mode.counts) == {"_local_scalar_dense": 3, "index": 1, "nonzero": 1}
