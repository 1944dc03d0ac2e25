"""The synthetic slides are what their description says."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks.wsi_mil.bags import (
    BACKGROUND,
    CONFUSER,
    COUNTS,
    EASY,
    HARD,
    Slides,
    SlideSet,
    class_labels,
    make_slide,
    make_world,
)

PLAIN = Slides(width=8, kinds=1, spread=0.0, shift=0.0, signal=3.0, hardness=0.4)


def test_sizes_are_log_uniform_and_shares_uniform():
    slides = [make_slide(9, "large", n, 1, Slides(width=2, kinds=1)) for n in range(150)]
    sizes = np.array([slide.kinds.size for slide in slides])
    assert sizes.min() >= 2_000
    assert sizes.max() <= 20_000
    place = np.log(sizes / 2_000) / math.log(10)
    assert stats.kstest(place, "uniform").pvalue > 0.01
    for chosen in ([EASY, HARD], [CONFUSER]):
        shares = np.array([np.isin(slide.kinds, chosen).mean() for slide in slides])
        assert stats.kstest((shares - 0.01) / 0.04, "uniform").pvalue > 0.01
    hard = np.array([(s.kinds == HARD).sum() / s.witnesses.sum() for s in slides])
    assert (hard == 1).mean() == pytest.approx(0.5, abs=0.12)
    assert stats.kstest(hard[hard < 1], "uniform").pvalue > 0.01


def test_negative_bags_hold_confusers_and_no_witness():
    for number in range(20):
        slide = make_slide(9, "test", number, 0, PLAIN)
        assert not slide.witnesses.any()
        assert 0.0095 <= (slide.kinds == CONFUSER).mean() <= 0.0505


def pooled(kind, count=40):
    """Return the projections on u and v of all instances of a kind."""
    world = make_world(5, PLAIN)
    slides = [make_slide(5, "train", number, 1, PLAIN) for number in range(count)]
    values = np.concatenate([s.features[s.kinds == kind] for s in slides]).astype(np.float64)
    return values @ world.first, values @ world.second


@pytest.mark.parametrize(("kind", "mean"), [(BACKGROUND, 0.0), (EASY, 3.0), (HARD, 1.2)])
def test_a_signature_has_both_parts(kind, mean):
    for part in pooled(kind):
        assert part.mean() == pytest.approx(mean, abs=5 / math.sqrt(part.size))
        assert part.std() == pytest.approx(1, abs=5 / math.sqrt(part.size))


def test_a_confuser_has_one_part_that_stands_out_further():
    first, second = pooled(CONFUSER)
    error = 5 * 2.5 / math.sqrt(first.size)
    # Half of them have c f in u, f ~ U(1, 2): mean .5 x 1.5 c, second moment 1 + .5 c^2 7/3.
    for part in (first, second):
        assert part.mean() == pytest.approx(0.75 * 3, abs=error)
        assert (part**2).mean() == pytest.approx(1 + 0.5 * 9 * 7 / 3, abs=8 * error)
    assert (first * second).mean() == pytest.approx(0, abs=4 * error)  # never both at once


def test_neither_half_nor_an_outlier_tells_the_classes_apart_but_both_parts_do():
    slides = Slides(width=32, kinds=1, spread=0.0, shift=0.0, signal=6.0)
    world = make_world(3, slides)
    labels, rows = np.arange(40) % 2, []
    for number, label in enumerate(labels.tolist()):
        values = make_slide(3, "test", number, label, slides).features.astype(np.float64)
        first, second = values @ world.first, values @ world.second
        far = np.linalg.norm(values, axis=1)
        rows.append((first.max(), second.max(), far.max(), np.minimum(first, second).max()))
    scores = [roc_auc_score(labels, column) for column in np.transpose(rows)]
    assert max(scores[:3]) < 0.7
    assert scores[3] > 0.95


def test_a_slide_depends_on_seed_split_number_and_class_alone():
    one = make_slide(1, "train", 3, 1, PLAIN)
    np.testing.assert_array_equal(one.features, make_slide(1, "train", 3, 1, PLAIN).features)
    firsts = {float(one.features[0, 0])}
    for key in ((2, "train", 3, 1), (1, "test", 3, 1), (1, "train", 4, 1), (1, "train", 3, 0)):
        firsts.add(float(make_slide(*key, PLAIN).features[0, 0]))
    assert len(firsts) == 5


def test_splits_of_a_seed_are_of_one_world():
    slides = Slides(width=16, kinds=1, spread=2.0, shift=0.0)

    def tissue(seed, split):
        slide = make_slide(seed, split, 0, 0, slides)
        return slide.features[slide.kinds == BACKGROUND].astype(np.float64).mean(axis=0)

    assert np.abs(tissue(1, "train") - tissue(1, "test")).max() < 0.15
    assert np.abs(tissue(1, "train") - tissue(2, "train")).max() > 1


def test_kinds_of_tissue_have_shares_of_their_own_in_every_bag():
    slides = Slides(width=4, kinds=2, spread=50.0, shift=0.0, sizes=(2_000, 2_000))
    first, second = make_world(1, slides).tissue
    shares = []
    for number in range(60):
        slide = make_slide(1, "train", number, 0, slides)
        values = slide.features[slide.kinds == BACKGROUND].astype(np.float64)
        nearer = np.linalg.norm(values - first, axis=1) < np.linalg.norm(values - second, axis=1)
        shares.append(nearer.mean())
    assert stats.kstest(shares, "uniform").pvalue > 0.01  # Dirichlet (1, 1)


def test_bags_differ_by_a_shift_of_their_own():
    slides = Slides(width=400, kinds=1, spread=0.0, shift=0.7, sizes=(2_000, 2_000))
    means = [
        make_slide(1, "train", n, 0, slides).features.mean(axis=0, dtype=float) for n in (0, 1)
    ]
    for mean in means:
        assert mean.std() == pytest.approx(0.7, abs=0.1)
    assert np.corrcoef(means)[0, 1] == pytest.approx(0, abs=0.2)


def test_classes_are_equal_or_one_to_ten():
    counts = [(class_labels(COUNTS[s], n) == 1).sum() for s in ("train", "test") for n in (1, 10)]
    assert counts == [30, 5, 20, 4]
    assert len(class_labels(40, 10)) == 40


def test_training_reads_whole_bags_or_another_part_every_epoch_and_never_their_truth():
    bags = SlideSet(1, "train", 1, PLAIN, count=4)
    whole = bags.reader(None, 0)([2, 0], 5)
    assert whole.sizes().tolist() == [bags.sizes[2], bags.sizes[0]]
    assert whole.labels.tolist() == [0, 1]
    assert whole.index.tolist() == [2, 0]
    assert whole.bag_ids == ("train 2", "train 0")
    assert whole.instance_labels is None
    cut, again, other = (bags.reader(100, 0)([1], epoch) for epoch in (3, 3, 4))
    assert len(set(cut.instance_index.tolist())) == 100
    np.testing.assert_array_equal(cut.instance_index, again.instance_index)
    assert cut.instance_index.tolist() != other.instance_index.tolist()
    expected = bags.slides[1].features[cut.instance_index.numpy()]
    np.testing.assert_array_equal(cut.features.numpy(), expected)
    assert bags.reader(100, 0)([1], None).sizes().tolist() == [bags.sizes[1]]  # prediction
