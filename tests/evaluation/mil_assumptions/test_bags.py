"""The bags of the algorithmic unit tests: what they hold, and that the shortcut reverses."""

import itertools

import pytest
import torch

from evaluation.mil_assumptions.bags import concept_bags, kind_names

BACKGROUND, POISON, FIRST, SECOND = range(4)
# (test, split, label) -> the counts that occur of background, poison, first and second kind.
TABLE = {
    (1, "train", 0): ({*range(1, 10)}, {1}, {0}, {0}),
    (1, "train", 1): ({1, 2, 3, 4}, {0}, {1, 2, 3}, {0}),
    (1, "test", 0): ({*range(1, 10)}, {0}, {0}, {0}),
    (1, "test", 1): ({1, 2, 3, 4}, {1}, {1, 2, 3}, {0}),
    (2, "train", 0): ({1, 2, 3, 4}, {1}, {0, 1}, {0, 1}),
    (2, "train", 1): ({1, 2, 3, 4}, {0, 1}, {1, 2, 3, 4}, {1, 2, 3, 4}),
    (2, "test", 0): ({1, 2, 3, 4}, {0}, {0, 1}, {0, 1}),
    (2, "test", 1): ({1, 2, 3, 4}, {1}, {1, 2, 3, 4}, {1, 2, 3, 4}),
    (3, "train", 0): ({*range(1, 10)}, {0}, {0, 1}, {0, 1}),
    (3, "train", 1): ({*range(1, 10)}, {0}, {1}, {1}),
    (3, "test", 0): ({*range(1, 10)}, {0}, {0, *range(35, 40)}, {0, *range(35, 40)}),
    (3, "test", 1): ({*range(1, 10)}, {0}, {1}, {1}),
}
GAUSSIANS = {
    1: {BACKGROUND: (0, 1), POISON: (-10, 0.1), FIRST: (0, 3)},
    2: {BACKGROUND: (0, 1), POISON: (-10, 0.1), FIRST: (2, 0.1), SECOND: (3, 0.1)},
    3: {BACKGROUND: (0, 1), FIRST: (-2, 0.1), SECOND: (2, 0.1)},
}
CASES = list(itertools.product((1, 2, 3), ("train", "test")))


def counts_of(bags):
    """Return (B, 4), counted one bag at a time."""
    parts = bags.kinds.split(bags.sizes.tolist())
    return torch.stack([torch.bincount(part, minlength=4) for part in parts])


def area_under_roc(scores, labels):
    positive, negative = scores[labels == 1], scores[labels == 0]
    above = (positive[:, None] > negative).float() + (positive[:, None] == negative) / 2
    return above.mean().item()


@pytest.mark.parametrize(("test", "split"), CASES)
def test_bags_hold_what_the_table_says(test, split):
    bags = concept_bags(test, split, 3000, 0, dim=1, size=None)
    counts = counts_of(bags)
    assert bags.labels.tolist() == [0, 1] * 1500
    assert torch.equal(bags.sizes, counts.sum(1))
    for label in (0, 1):
        for kind, expected in enumerate(TABLE[test, split, label]):
            seen, often = counts[label::2, kind].unique(return_counts=True)
            assert set(seen.tolist()) == expected
            if len(expected) > 2 and 0 not in expected:  # all equally often, within 5 deviations
                share = 1 / len(expected)
                spread = 5 * (share * (1 - share) / 1500) ** 0.5
                assert ((often / 1500 - share).abs() < spread).all()
    # one of the two concepts in negative bags, never both and never none
    if test > 1:
        assert ((counts[::2, FIRST:] > 0).sum(1) == 1).all()


@pytest.mark.parametrize(("test", "split"), CASES)
def test_bags_are_filled_up_with_background_alone(test, split):
    bags = concept_bags(test, split, 400, 3, dim=1)
    assert set(bags.sizes.tolist()) == {45}
    for label in (0, 1):
        for kind, expected in enumerate(TABLE[test, split, label][1:], start=1):
            assert set(counts_of(bags)[label::2, kind].tolist()) <= expected


@pytest.mark.parametrize(
    ("test", "split", "share", "options"),
    [
        (2, "train", 1 / 2, {}),
        (2, "test", 1 / 2, {}),
        (3, "train", 1 / 2, {}),
        (3, "test", 4 / 9, {}),
        (2, "train", 1 / 3, {"empty_negatives": True}),
        (2, "test", 1 / 2, {"empty_negatives": True}),
    ],
)
def test_how_often_a_negative_bag_has_the_first_concept(test, split, share, options):
    bags = concept_bags(test, split, 8000, 1, dim=1, size=None, **options)
    counts = counts_of(bags)[::2]
    spread = 5 * 0.5 / 4000**0.5
    assert (counts[:, FIRST] > 0).float().mean().item() == pytest.approx(share, abs=spread)
    neither = (counts[:, FIRST:] == 0).all(1).float().mean().item()
    assert neither == pytest.approx(1 / 3 if share == 1 / 3 else 0, abs=spread if neither else 0)


def test_a_tenth_of_the_positive_bags_of_test_2_is_poisoned_in_training():
    counts = counts_of(concept_bags(2, "train", 8000, 2, dim=1, size=None))
    assert counts[1::2, POISON].float().mean().item() == pytest.approx(0.1, abs=5 * 0.3 / 4000**0.5)


@pytest.mark.parametrize(("test", "split"), CASES)
def test_instances_of_a_kind_are_normal_in_each_feature(test, split):
    bags = concept_bags(test, split, 2000, 4, dim=3)
    packed = torch.cat(bags.features)
    for kind, (mean, std) in GAUSSIANS[test].items():
        rows = packed[bags.kinds == kind].double()
        if not len(rows):
            continue
        spread = 5 * std / len(rows) ** 0.5
        assert (rows.mean(0) - mean).abs().max() < spread
        assert (rows.std(0) - std).abs().max() < spread
        correlation = torch.corrcoef(rows.T) - torch.eye(3)
        assert correlation.abs().max() < 5 / len(rows) ** 0.5
    assert set(bags.kinds.tolist()) <= set(GAUSSIANS[test])


def test_mixed_indicators_are_of_two_kinds_instance_by_instance():
    options = {"dim": 64, "size": None}
    bags = concept_bags(1, "train", 2000, 0, indicator="mixed", **options)
    packed = torch.cat(bags.features)
    spread = packed.std(1)
    indicators = bags.kinds == FIRST
    wide = indicators & (spread > 2)
    assert packed[wide].std().item() == pytest.approx(3, abs=0.05)
    obvious = packed[indicators & ~wide]
    assert obvious.mean().item() == pytest.approx(1, abs=0.02)
    assert obvious.std().item() == pytest.approx(1, abs=0.02)
    assert wide.sum().item() / indicators.sum().item() == pytest.approx(0.5, abs=0.05)
    bags_with_both = {
        (bool(wide_row[kinds == FIRST].any()), bool((~wide_row[kinds == FIRST]).any()))
        for wide_row, kinds in zip(
            wide.split(bags.sizes.tolist()), bags.kinds.split(bags.sizes.tolist()), strict=True
        )
    }
    assert (True, True) in bags_with_both


def test_places_in_the_bag_say_nothing():
    bags = concept_bags(1, "train", 9000, 0, dim=1)
    places = torch.stack(bags.kinds.split(45)) == POISON
    often = places.sum(0) / 4500  # 4500 bags have one, each place with chance 1/45
    assert often.sum().item() == pytest.approx(1)
    assert (often - 1 / 45).abs().max() < 5 * (1 / 45 / 4500) ** 0.5


def poison_absent(bag):
    return -(bag.mean(1) < -5).sum()


def hits(bag):
    """Count instances near one of the concepts of tests 2 or 3: narrow and not poison."""
    return ((bag.std(1) < 0.5) & (bag.mean(1) > -5)).sum()


def wide_instance(bag):
    return (bag.std(1) > 2).any()


def both_concepts(border):
    def rule(bag):
        narrow = bag[(bag.std(1) < 0.5) & (bag.mean(1) > -5)].mean(1)
        return (narrow < border).any() & (narrow > border).any()

    return rule


@pytest.mark.parametrize(
    ("test", "scorer", "in_training", "in_test"),
    [
        (1, poison_absent, 1.0, 0.0),
        (2, poison_absent, 0.95, 0.0),  # a tenth of the positives ties with all negatives
        (3, hits, 1.0, 0.0),
        (1, wide_instance, 1.0, 1.0),
        (2, both_concepts(2.5), 1.0, 1.0),
        (2, hits, 1.0, 1.0),  # why test 2 is never read alone
        (3, both_concepts(0.0), 1.0, 1.0),
        (1, lambda bag: torch.tensor(len(bag)), 0.5, 0.5),
        (3, lambda bag: torch.tensor(len(bag)), 0.5, 0.5),
    ],
)
def test_shortcuts_reverse_and_legal_rules_hold(test, scorer, in_training, in_test):
    for split, expected in (("train", in_training), ("test", in_test)):
        bags = concept_bags(test, split, 600, 5, dim=64)
        scores = torch.stack([scorer(bag) for bag in bags.features])
        tolerance = 0.02 if expected == 0.95 else 0
        assert area_under_roc(scores, bags.labels) == pytest.approx(expected, abs=tolerance)


def test_bags_depend_on_test_split_and_seed_alone():
    first = concept_bags(2, "train", 10, 7)
    torch.rand(3)
    again = concept_bags(2, "train", 10, 7)
    assert torch.equal(torch.cat(first.features), torch.cat(again.features))
    assert torch.equal(first.kinds, again.kinds)
    for other in (
        concept_bags(2, "train", 10, 8),
        concept_bags(2, "test", 10, 7),
        concept_bags(3, "train", 10, 7),
    ):
        background = torch.cat(other.features)[other.kinds == BACKGROUND]
        shared = torch.isin(background, torch.cat(first.features)).float().mean()
        assert shared < 0.01  # some numbers of float32 come twice


def test_scaling_by_the_training_instances():
    train = concept_bags(1, "train", 200, 0)
    scaled = train.scaled(*train.statistics())
    packed = torch.cat(scaled.features).double()
    torch.testing.assert_close(packed.mean(0), torch.zeros(16).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(packed.square().mean(0), torch.ones(16).double(), rtol=0, atol=1e-5)
    mean, std = torch.full((16,), 2.0), torch.full((16,), 4.0)
    torch.testing.assert_close(train.scaled(mean, std).features[3], (train.features[3] - 2) / 4)
    assert torch.equal(scaled.kinds, train.kinds)
    assert [len(bag) for bag in scaled.features] == [45] * 200


def test_names_of_kinds():
    assert kind_names(1) == ("background", "poison", "indicator", "")
    assert kind_names(3)[POISON] == ""


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((4, "train", 10, 0), {}, "got 4"),
        ((1, "val", 10, 0), {}, "'val'"),
        ((1, "train", 1, 0), {}, "at least 2 bags"),
        ((3, "train", 10, 0), {"size": 39}, "up to 39 instances"),
        ((1, "train", 10, 0), {"size": 4}, "must be larger, got 4"),
        ((1, "train", 10, 0), {"dim": 0}, "at least 1 feature"),
        ((1, "train", 10, 0), {"indicator": "easy"}, "'easy'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        concept_bags(*arguments, **options)
