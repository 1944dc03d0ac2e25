"""The structural tests of padded and packed modules, and the bags that all are tried on."""

import pytest
import torch
from torch import nn

from evaluation.mil_assumptions.adapters import adapt
from evaluation.mil_assumptions.structure import StructureSettings, check_structure
from evaluation.mil_assumptions.structure_checks import draw_bags, far_instances
from structures import MILOutput

DIM = 4
FEW = StructureSettings(seeds=2, pairs=100, bags=12, searched=2, sizes=(1, 9))
HOLDS, FAILS, NONE = "holds", "fails", "n/a"


def builder(make, adapter="bag"):
    def build(seed):
        torch.manual_seed(seed)
        return adapt(make(), adapter)

    return build


def structure(make, adapter="bag", settings=FEW):
    return check_structure(builder(make, adapter), DIM, settings)


class Padded(nn.Module):
    """Padded batches in a way that is right or wrong."""

    def __init__(self, way):
        super().__init__()
        self.score = nn.Linear(DIM, 1, bias=way != "no_bias")
        self.way = way

    def forward(self, X, mask):
        scores = self.score(X)[..., 0]
        if self.way in ("ignored", "no_bias"):
            return scores.sum(1)
        if self.way == "counted":
            return (scores * mask).mean(1)
        if self.way == "other_bags":
            return (scores * mask).sum(1) - (scores * mask).sum() * 0.1
        if self.way == "soft":
            return ((scores - 1.0 * ~mask).softmax(1) * scores).sum(1)
        return (scores * mask).sum(1)


@pytest.mark.parametrize(
    ("way", "status"),
    [
        ("right", HOLDS),
        ("ignored", FAILS),
        ("counted", FAILS),
        ("other_bags", FAILS),
        ("soft", FAILS),
        ("no_bias", FAILS),  # zeros are harmless, anything else is not
    ],
)
def test_masks_that_do_not_mask(way, status):
    found = structure(lambda: Padded(way), "batch").padding
    assert found.status == status
    assert found.tried == 24
    assert found.note == ("" if way == "right" else "reads rows that the mask leaves out")
    assert (found.worst > 1e-3) is (status == FAILS)


def test_a_module_of_batches_without_a_mask():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(DIM, 1)

        def forward(self, X):
            return self.score(X).mean(1)

    found = structure(Plain, "batch").padding
    assert (found.status, found.note) == (FAILS, "its forward takes no mask")


class Packed(nn.Module):
    """A model of packed bags with a choice of logits from instance scores."""

    def __init__(self, way):
        super().__init__()
        self.score = nn.Linear(DIM, 1)
        self.scale = nn.Parameter(torch.rand(()))
        self.way = way

    def forward(self, bags):
        scores = self.score(bags.features)
        parts = scores.split(bags.sizes().tolist())
        logits = torch.stack([self.pool(part) for part in parts])
        if self.way == "neighbours":
            logits = logits + logits.mean()
        told = {"aside": self.score(bags.features), "two": scores.expand(-1, 2)}
        return MILOutput(logits, instance_logits=told.get(self.way, scores))

    def pool(self, scores):
        if self.way == "max":
            return scores.amax(0)
        if self.way == "scaled":
            return self.scale * scores.mean(0)
        if self.way == "against":
            return 3 * scores.mean(0) - scores.amax(0)
        return scores.mean(0)


def test_the_sign_of_the_gradient_by_instance_scores():
    report = structure(lambda: Packed("mean"), "packed")
    assert report.gradient_sign.status == HOLDS
    assert report.gradient_sign.worst == pytest.approx(1 / 9)  # of the largest bag
    report = structure(lambda: Packed("against"), "packed")
    assert report.gradient_sign.status == FAILS
    assert report.gradient_sign.worst == pytest.approx(3 / 9 - 1)
    assert 0 < report.gradient_sign.broken <= 24  # at most one instance of each bag
    report = structure(lambda: Packed("max"), "packed")  # 1 for one instance, 0 for the others
    assert (report.gradient_sign.status, report.gradient_sign.worst) == (HOLDS, 0.0)
    scales = [builder(lambda: Packed("scaled"), "packed")(seed).module.scale for seed in (0, 1)]
    report = structure(lambda: Packed("scaled"), "packed")
    assert report.gradient_sign.worst == pytest.approx(min(scales).item() / 9)
    for way in ("aside", "two"):
        assert structure(lambda way=way: Packed(way), "packed").gradient_sign.status == NONE


def test_packed_bags_alone_and_together():
    assert structure(lambda: Packed("mean"), "packed").padding.status == HOLDS
    assert structure(lambda: Packed("neighbours"), "packed").padding.status == FAILS


def test_bags_and_instances_that_are_tried():
    generator = torch.Generator().manual_seed(0)
    bags = draw_bags(400, (1, 9), 8, generator)
    assert [len(bags[0]), len(bags[1])] == [1, 9]
    sizes = torch.tensor([len(bag) for bag in bags])
    assert sizes.min() == 1
    assert sizes.max() == 9
    assert sizes.float().mean().item() == pytest.approx(5, abs=0.4)
    rows = torch.cat(bags).mean(1)
    share = [((rows - mean).abs() < 0.3).float().mean().item() for mean in (-10, -2, 2, 3)]
    assert share == pytest.approx([0.3 / 6] * 4, abs=0.02)  # 8 features: means of others differ
    far = far_instances(2000, 8, generator).norm(dim=1) / 8**0.5
    for size in (2, 10, 100):  # chance of 1 / u above size is 1 / size
        assert (far > size).float().mean().item() == pytest.approx(1 / size, rel=0.35)
