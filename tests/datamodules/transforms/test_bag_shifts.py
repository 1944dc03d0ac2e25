"""Shifts of bags against closed forms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.mil.standardisation import Standardisation
from datamodules.transforms.bag_shifts import (
    NEED_UNITS,
    SHIFTS,
    STRENGTHS,
    FeatureUnits,
    RunningUnits,
    shift_bag,
    units_of,
)
from structures import BagBatch


def bag_of(features, **fields):
    features = torch.as_tensor(features)
    return BagBatch(
        features=features,
        offsets=torch.tensor([0, len(features)]),
        labels=torch.tensor([1]),
        index=torch.tensor([7]),
        bag_ids=("b",),
        **fields,
    )


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def units(width, seed=1):
    rng = np.random.default_rng(seed)
    return FeatureUnits(rng.normal(size=width), rng.uniform(0.5, 2, width))


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_follows_from_its_arguments_alone(name):
    features = normal(40, 6)
    bag, known = bag_of(features.copy()), units(6)
    first = shift_bag(bag, name, 3, 11, known)
    torch.manual_seed(3)
    again = shift_bag(bag, name, 3, 11, known)
    assert torch.equal(first.features, again.features)
    np.testing.assert_array_equal(bag.features.numpy(), features)  # the bag stays as it was
    other = shift_bag(bag, name, 3, 12, known)
    assert not torch.equal(first.features, other.features)
    assert (first.labels, first.index, first.bag_ids) == (bag.labels, bag.index, bag.bag_ids)
    first.check()


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_the_deviation_of_its_severity(severity):
    known = units(5)._replace(std=np.array([0.5, 1, 2, 4, 0]))
    features = normal(20_000, 5)
    added = shift_bag(bag_of(features), "feature_noise", severity, 0, known).features - features
    expected = STRENGTHS["feature_noise"][severity - 1] * known.std
    np.testing.assert_allclose(added.std(dim=0), expected, rtol=0.02, atol=1e-6)
    np.testing.assert_allclose(added.mean(dim=0) / expected.max(), 0, atol=0.03)


def test_gain_and_offset_are_one_line_for_each_feature():
    known, features = units(3000), normal(4, 3000)
    shifted = shift_bag(bag_of(features), "feature_gain", 4, 0, known).features.double().numpy()
    x = features.astype(float)
    slope = (shifted[1] - shifted[0]) / (x[1] - x[0])
    line = shifted[0] + slope * (x - x[0])
    apart = np.abs(x[1] - x[0]) > 0.1  # where float32 tells the slope
    np.testing.assert_allclose(shifted[:, apart], line[:, apart], atol=1e-3)
    assert np.log(slope[apart]).std() == pytest.approx(0.35, rel=0.05)
    # The mean of the training is moved by the offset alone.
    moved = (shifted[0] + slope * (known.mean - x[0]) - known.mean) / known.std
    assert moved[apart].std() == pytest.approx(0.35, rel=0.05)
    assert np.log(slope[apart]).mean() == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("name", sorted(NEED_UNITS))
def test_the_unit_of_a_feature_does_not_matter(name):
    """A feature in other units, with units that follow, has the same shift in these units."""
    known, features = units(6), normal(9, 6)
    scale, start = np.array([1, 2, 4, 0.5, 8, 1]), np.array([0, 1, 3, -2, 5, 100])
    shifted = shift_bag(bag_of(features), name, 4, 5, known).features.double().numpy()
    other = FeatureUnits(known.mean * scale + start, known.std * scale)
    recoded = (features * scale + start).astype(np.float32)
    found = shift_bag(bag_of(recoded), name, 4, 5, other).features.double().numpy()
    np.testing.assert_allclose(found, shifted * scale + start, rtol=2e-5, atol=2e-5)


# instances of bags of 1, 2, 5, 10 and 1000 instances that are left
LEFT = {1: (1, 2, 4, 9, 900), 2: (1, 1, 3, 7, 700), 3: (1, 1, 2, 5, 500), 4: (1, 1, 1, 3, 300),
        5: (1, 1, 1, 1, 100)}  # fmt: skip


@pytest.mark.parametrize("severity", LEFT)
def test_missing_instances(severity):
    for count, left in zip((1, 2, 5, 10, 1000), LEFT[severity], strict=True):
        rows = torch.arange(count)
        fields = {"coords": rows[:, None].repeat(1, 2), "instance_labels": rows}
        bag = bag_of(rows[:, None].half(), **fields)
        found = shift_bag(bag, "missing_instances", severity, 3)
        kept = found.features[:, 0].long()
        assert len(kept) == left
        assert torch.equal(kept, kept.unique())  # each once, in order
        assert torch.equal(found.instance_labels, kept)
        assert torch.equal(found.coords[:, 1], kept)
        assert found.features.dtype == torch.float16
        found.check()
    counts = np.zeros(20)
    for seed in range(300):
        bag = shift_bag(bag_of(np.arange(20.0)[:, None]), "missing_instances", severity, seed)
        counts[bag.features[:, 0].long()] += 1
    share = len(bag.features) / 20  # all instances are equally likely to be lost
    assert np.abs(counts / 300 - share).max() < 4 * np.sqrt(share * (1 - share) / 300) + 1e-9


@pytest.mark.parametrize(("count", "copied"), [(1, 1), (4, 1), (30, 3), (36, 4)])
def test_duplicates_move_the_mean_of_a_bag_as_they_should(count, copied):
    features = normal(count, 3)
    for severity, copies in enumerate((1, 2, 4, 8, 16), 1):
        found = shift_bag(bag_of(features), "duplicate_instances", severity, 1).features.numpy()
        rows, times = np.unique(found, axis=0, return_counts=True)
        assert len(rows) == count  # none is lost
        assert sorted(times) == [1] * (count - copied) + [1 + copies] * copied
        again = rows[times > 1] if count > 1 else rows
        mean = (features.sum(axis=0) + copies * again.sum(axis=0)) / (count + copies * copied)
        np.testing.assert_allclose(found.mean(axis=0), mean, rtol=1e-4, atol=1e-6)
    position = [np.flatnonzero((features == row).all(axis=1))[0] for row in found]
    assert position == sorted(position)  # copies follow their original


@pytest.mark.parametrize("shape", [(10,), (1, 2, 5)])
def test_features_become_their_mean(shape):
    known = units(10)
    known = FeatureUnits(known.mean.reshape(shape), known.std.reshape(shape))
    features = normal(6, *shape)
    for severity, count in enumerate((1, 3, 5, 7, 9), 1):
        found = shift_bag(bag_of(features), "mean_features", severity, 2, known).features.numpy()
        changed = (found != features).any(axis=0)
        assert changed.sum() == count
        expected = np.where(changed, known.mean.astype(np.float32), features)
        np.testing.assert_array_equal(found, expected)


def test_standardised_features_keep_their_limit_and_constants():
    fitted = Standardisation(np.array([3.0, 5.0]), np.array([2.0, 0.0]), 1.5)
    known = units_of(SimpleNamespace(standardisation=fitted))
    bag = bag_of(fitted.apply(normal(500, 2)))
    for name in NEED_UNITS:
        found = shift_bag(bag, name, 5, 0, known).features
        assert found.abs().max() <= 1.5
        assert not found[:, 1].any()
    assert units_of(SimpleNamespace()) is None


def test_units_of_many_bags_are_those_of_all_instances():
    rng = np.random.default_rng(0)
    parts = [rng.normal(1e4, 0.1, (n, 3)).astype(np.float32) for n in (1, 0, 5000, 7, 300)]
    running = RunningUnits()
    for part in parts:
        running.add(torch.from_numpy(part))
    whole = np.concatenate(parts).astype(float)
    np.testing.assert_allclose(running.units().mean, whole.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(running.units().std, whole.std(axis=0), rtol=1e-9)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="no shift 'fog'; there are feature_noise, "):
        shift_bag(bag_of(normal(2, 2)), "fog", 1, 0)
    with pytest.raises(ValueError, match="feature_noise needs mean and deviation"):
        shift_bag(bag_of(normal(2, 2)), "feature_noise", 1, 0)


def test_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_site.py").write_text(
        "import numpy as np\n"
        "def tilted(features, severity, rng):\n"
        "    features += severity * rng.normal(size=features.shape[1:]).astype('float32')\n"
        "    return features\n"
        "def shorter(features, severity, rng):\n"
        "    return features[1:]\n"
        "def broken(features, severity, rng):\n"
        "    return features * np.float32('nan')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    features = normal(7, 3)
    found = shift_bag(bag_of(features.copy()), "own_site.tilted", 2, 4)
    tilt = np.random.default_rng(4).normal(size=3).astype(np.float32)
    np.testing.assert_array_equal(found.features.numpy(), features + 2 * tilt)
    assert found.bag_ids == ("b",)
    half = bag_of(torch.from_numpy(features).half())
    assert shift_bag(half, "own_site.tilted", 2, 4).features.dtype == torch.float32
    with pytest.raises(ValueError, match=r"returned float32 \(6, 3\); expected float32 \(7, 3\)"):
        shift_bag(bag_of(features), "own_site.shorter", 1, 0)
    with pytest.raises(ValueError, match="broken at severity 1 returned features that are not fin"):
        shift_bag(bag_of(features), "own_site.broken", 1, 0)
