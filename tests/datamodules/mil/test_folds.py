import numpy as np
import pytest

from datamodules.mil.folds import classes_in, hold_out, strata, stratified_folds

LABELS = np.array([0] * 37 + [1] * 12 + [2] * 5)


def test_folds_have_equal_sizes_and_class_shares():
    folds = stratified_folds(LABELS, 5, seed=0)
    sizes = np.bincount(folds, minlength=5)
    assert sizes.max() - sizes.min() <= 1
    for label in range(3):
        held = np.bincount(folds[label == LABELS], minlength=5)
        assert held.max() - held.min() <= 1


def test_folds_depend_on_seed_and_repeat_alone():
    first = stratified_folds(LABELS, 5, seed=3, repeat=1)
    assert np.array_equal(first, stratified_folds(LABELS, 5, seed=3, repeat=1))
    assert not np.array_equal(first, stratified_folds(LABELS, 5, seed=3, repeat=2))
    assert not np.array_equal(first, stratified_folds(LABELS, 5, seed=4, repeat=1))


def test_no_patient_is_in_two_folds():
    patients = [f"p{n // 3}" for n in range(LABELS.size)]
    folds = stratified_folds(LABELS, 4, seed=0, groups=patients)
    assert set(folds.tolist()) == {0, 1, 2, 3}
    for patient in set(patients):
        assert len({int(f) for f, p in zip(folds, patients, strict=True) if p == patient}) == 1


def test_held_out_share_is_the_same_of_every_class():
    chosen = hold_out(LABELS, 0.2, (0, 1))
    assert chosen.sum() == 10  # floor of 54 / 5
    for label, count in ((0, 37), (1, 12), (2, 5)):
        assert abs(chosen[label == LABELS].sum() - 0.2 * count) < 1
    assert not hold_out(LABELS, 0.0, (0,)).any()
    assert not np.array_equal(chosen, hold_out(LABELS, 0.2, (0, 2)))


def test_held_out_patients_stay_together():
    patients = [f"p{n // 2}" for n in range(LABELS.size)]
    chosen = hold_out(LABELS, 0.3, (0,), patients)
    assert np.array_equal(chosen[::2], chosen[1::2])
    assert chosen[::2].sum() == 8  # floor of 0.3 x 27 patients


def test_wrong_shares_and_fold_numbers_are_refused():
    with pytest.raises(ValueError, match="2 to 54 folds for 54 bags, got 1"):
        stratified_folds(LABELS, 1, seed=0)
    with pytest.raises(ValueError, match="2 to 1 folds for 1 groups"):
        stratified_folds(LABELS, 2, seed=0, groups=["one"] * 54)
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1"):
        hold_out(LABELS, 1.0, (0,))


@pytest.mark.parametrize("positives", [1, 2, 3])
def test_rare_classes_keep_a_bag_in_training(positives):
    labels = np.zeros(50, dtype=np.int64)
    labels[:positives] = 1
    for seed in range(20):
        chosen = hold_out(labels, 0.2, (seed, 0, 0))
        assert labels[~chosen].sum() >= 1
        rest = np.flatnonzero(~chosen)
        again = hold_out(labels[rest], 0.2, (seed, 1, 0, 0))
        assert labels[rest][~again].sum() >= 1


def several(count=60):
    """Bags with a frequent class, one in 6, one in 12, and bags with none, in all combinations."""
    number = np.arange(count)
    return np.stack([number % 2, number % 6 == 1, number % 12 == 2], axis=1).astype(np.int64)


def test_the_stratum_of_bags_with_several_classes_is_the_rarest():
    labels = several()
    assert labels.sum(0).tolist() == [30, 10, 5]
    assert strata(labels[:8]).tolist() == [3, 1, 2, 0, 3, 0, 3, 1]
    assert strata(LABELS) is LABELS
    assert classes_in(labels[:2]) == {0, 1} and classes_in(LABELS) == {0, 1, 2}
    assert classes_in(np.zeros((3, 2), dtype=np.int64)) == set()


def test_bags_with_several_classes_are_divided_by_class():
    labels = several()
    folds = stratified_folds(labels, 5, seed=0)
    for c, count in enumerate((30, 10, 5)):
        assert np.bincount(folds[labels[:, c] == 1], minlength=5).tolist() == [count // 5] * 5
    held = hold_out(labels, 0.2, (0, 1))
    assert held.sum() == 12 and labels[held].sum(0).tolist() == [6, 2, 1]


def test_patients_with_several_classes_stay_whole():
    labels = several()
    patients = [f"p{n // 3}" for n in range(60)]
    folds = stratified_folds(labels, 5, seed=0, groups=patients)
    assert all(len(set(folds[n : n + 3])) == 1 for n in range(0, 60, 3))
    assert np.bincount(folds[labels[:, 2] == 1], minlength=5).tolist() == [1] * 5
