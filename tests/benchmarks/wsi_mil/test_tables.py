"""Intervals and tables of the comparison on synthetic slides."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.wsi_mil import tables


def result(method, seed, test, negatives=1):
    """Return a result of which the bag AUROCs on both test sets are known."""
    # One negative bag of five scores above so many of the four positive ones.
    scores = [0.0, 1.0, 2.0, 3.0, 4.0 * test - 0.5]
    bags = {"labels": [1, 1, 1, 1, 0], "logits": scores}
    names = ("witness_auroc", "instance_auroc", "effective", "effective_share")
    means = dict.fromkeys((*names, "witness_attention"), 0.5)
    return {
        "method": method, "negatives": negatives, "seed": seed,
        "seconds": 90.0, "seconds_measuring": 15.0,
        "train": bags, "test": bags, "large": bags | means,
    }  # fmt: skip


def test_the_interval_is_students_of_the_paired_differences():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(2, 5))
    found = tables.paired_interval(ours - theirs)
    wanted = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.mean == pytest.approx((ours - theirs).mean())
    assert (found.seeds, found.above) == (5, int((ours > theirs).sum()))


def test_of_five_seeds_the_interval_covers_and_a_bootstrap_over_them_does_not():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(1500, 5))
    found = [tables.paired_interval(row) for row in draws]
    covered = np.mean([low <= 0 <= high for _, low, high, _, _ in found])
    assert covered == pytest.approx(0.95, abs=0.02)
    means = draws[np.arange(1500)[:, None, None], rng.integers(5, size=(1500, 400, 5))].mean(axis=2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    assert ((low <= 0) & (high >= 0)).mean() < 0.88


def test_one_seed_has_no_interval():
    assert np.isnan(tables.paired_interval([0.3]).low)
    assert tables.paired_interval([0.3]).mean == pytest.approx(0.3)


def test_a_seed_without_a_difference_is_not_above():
    assert tables.paired_interval([0.0, 0.2, -0.1]).above == 1


def test_average_precision_is_at_the_frequency_of_the_training_bags():
    # Below the one negative bag lie two of four positives, so it comes after two hits.
    even, rare = (tables.COLUMNS["AUPRC, 100"](result("abmil", 1, 0.5, n)) for n in (1, 10))
    assert even == pytest.approx((1 + 1 + 3 / 7 + 4 / 8) / 4)  # the negative weighs 4
    assert rare == pytest.approx((1 + 1 + 3 / 43 + 4 / 44) / 4)  # and 40


def test_differences_are_of_common_seeds_and_method_less_baseline():
    rows = [result("abmil", seed, test) for seed, test in ((1, 0.5), (2, 0.75), (4, 0.0))]
    rows += [result("aem", seed, test) for seed, test in ((1, 0.25), (2, 0.25), (3, 1.0))]
    rows += [result("aem", 1, 0.5, negatives=10)]  # no baseline of its own
    found = tables.comparisons(rows, "AUROC, 40")
    assert [pair[:3] for pair in found] == [("aem", "abmil", 1)]
    # Positives below the one negative: .5, .75 of them for ABMIL, .25 and .25 for AEM.
    assert found[0][3].mean == pytest.approx(((0.75 - 0.5) + (0.75 - 0.25)) / 2)
    assert found[0][3].seeds == 2


def test_tables_have_a_row_a_method_and_one_a_comparison():
    rows = [result(m, s, t) for m, t in (("abmil", 0.5), ("aem", 0.25)) for s in (1, 2)]
    text = tables.markdown(rows)
    assert "| 1:1 | AEM | 2 | 0.750 (0.000) |" in text
    assert "| 1:1 | AEM | ABMIL | +0.250 [+0.250, +0.250] 2/2 |" in text
    assert text.endswith("4 runs, 6 minutes of processor time for training and 1 for measuring.")


def test_the_image_shows_every_comparison_on_both_test_sets():
    rows = [
        result(m, s, t + s / 8, n)
        for m, t in (("abmil", 0.5), ("aem", 0.25))
        for s in (1, 2)
        for n in (1, 10)
    ]
    rows += [result("aem", 3, 0.0, 10), result("abmil", 3, 1.0, 10)]
    panels = tables.figure(rows).axes
    assert len(panels) == 2
    for panel, ratio in zip(panels, (1, 10), strict=True):
        assert [t.get_text() for t in panel.get_yticklabels()] == ["AEM\nagainst ABMIL"]
        for container in panel.containers:
            line, _, bars = container
            wanted = tables.comparisons(rows, "AUROC, 40")[(1, 10).index(ratio)][3]
            assert line.get_xdata()[0] == pytest.approx(wanted.mean)
            ends = bars[0].get_segments()[0][:, 0]
            assert ends.tolist() == pytest.approx([wanted.low, wanted.high])
