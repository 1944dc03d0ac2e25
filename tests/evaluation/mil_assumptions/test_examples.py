"""Counter-examples of trained models, as they are told and as a reader computes them again."""

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.mil_assumptions.adapters import adapt, import_model
from evaluation.mil_assumptions.bags import concept_bags
from evaluation.mil_assumptions.examples import find_example
from evaluation.mil_assumptions.suite import run_test
from evaluation.mil_assumptions.training import AssumptionSettings, alone, draw_bags, train_on_test


class AgainstPoison(nn.Module):
    """Minus the number of instances whose mean is far below; features standardised by the bags."""

    def __init__(self, bags, largest=False):
        super().__init__()
        self.bags, self.largest = bags, largest

    def forward(self, x):
        raw = self.bags.original(x.float()).mean(1)
        return raw.max() if self.largest else -(raw < -5).sum().float()


def test_an_example_is_told_in_kinds_and_units():
    bags = draw_bags(1, 0, AssumptionSettings(train_bags=40, test_bags=20))
    found = find_example(adapt(AgainstPoison(bags), "bag"), bags, 1)
    assert found.added == "poison"
    assert found.values == pytest.approx([-10] * 16, abs=0.6)
    assert found.after == found.before - 1
    assert sum(found.contents.values()) == 45
    kinds = [kind for kind, _ in found.rows]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == found.contents
    for kind, values in found.rows:  # in the units that they were drawn in
        mean, std = {"background": (0, 1), "poison": (-10, 0.1), "indicator": (0, 3)}[kind]
        assert np.mean(values) == pytest.approx(mean, abs=std)
        assert np.std(values) == pytest.approx(std, rel=0.7)
    sign = "positive" if found.label else "negative"
    assert f"the {sign} {found.split} bag {found.number} (" in found.describe()
    assert "one more instance, poison, it has" in found.describe()
    # the bag is the one that was drawn at this place
    drawn = concept_bags(1, found.split, 40 if found.split == "train" else 20, 0)
    assert int(drawn.labels[found.number]) == found.label
    wanted = drawn.features[found.number]
    torch.testing.assert_close(torch.tensor([row for _, row in found.rows]), wanted)
    lines = found.table()
    assert lines[-1][0] == "added: poison"
    assert float(lines[-1][1]) == pytest.approx(-10, abs=0.1)
    assert lines[-2][0] == f"{found.contents['background']} background instances"
    assert [line[0] for line in lines[:-2]] == [kind for kind in kinds if kind != "background"]
    assert find_example(adapt(AgainstPoison(bags, largest=True), "bag"), bags, 1) is None


def test_what_is_told_can_be_computed_again():
    """As docs/mil_assumptions.md says: the model trained anew, the bag and instance of the JSON."""
    build = import_model("tests.foreign.aggregators.GatedAttention", {"width": 8})
    settings = AssumptionSettings(tests=(1,), seeds=1, train_bags=64, test_bags=32, epochs=4)
    example = run_test(build, 1, 2, settings).example.record()
    with alone(2):
        trained = train_on_test(build, 1, 2, settings)
    bags = trained.bags
    bag = torch.tensor([features for _, features in example["rows"]])
    scaled = (bag - bags.mean) / bags.std
    torch.testing.assert_close(getattr(bags, example["split"]).features[example["number"]], scaled)
    added = (torch.tensor(example["values"]) - bags.mean) / bags.std
    logits = trained.model.logits([scaled, torch.cat([scaled, added.unsqueeze(0)])])
    assert logits.tolist() == pytest.approx([example["before"], example["after"]], abs=1e-5)
    assert example["after"] < example["before"]


def test_bags_of_both_splits_are_searched():
    """More than 35 hits count against a bag: only negative test bags of test 3 have as many."""
    bags = draw_bags(3, 0, AssumptionSettings(train_bags=40, test_bags=20))

    class AgainstMany(nn.Module):
        def forward(self, x):
            hits = bags.original(x.float()).std(1) < 0.4
            return -(hits.sum() - 35).clamp(min=0).float()

    found = find_example(adapt(AgainstMany(), "bag"), bags, 3)
    assert (found.split, found.label) == ("test", 0)
    assert found.contents["background"] <= 10
    assert found.added in ("concept A", "concept B")
