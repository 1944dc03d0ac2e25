import numpy as np
import pytest

from datamodules.mil.standardisation import Standardisation

TRAIN = np.array([[1, 5, 0.1], [3, 5, 0.1], [5, 5, 0.1]], dtype=np.float32)


def test_values_by_hand():
    fitted = Standardisation.fit(TRAIN)
    assert fitted.mean.tolist() == pytest.approx([3, 5, 0.1])
    assert fitted.std.tolist() == pytest.approx([np.sqrt(8 / 3), 0, 0])
    values = fitted.apply(np.array([[5, 9, 0.2]], dtype=np.float32))
    # two constant features become 0 in bags where they differ as well
    assert values.tolist() == [[pytest.approx(2 / np.sqrt(8 / 3)), 0, 0]]


def test_rounding_does_not_make_a_constant_vary():
    column = np.full((1000, 1), 0.1, dtype=np.float32)
    column[::2] = np.nextafter(np.float32(0.1), np.float32(1))
    assert Standardisation.fit(column).std.tolist() == [0]


def test_small_but_varying_features_are_scaled():
    values = np.array([[1e-8], [-1e-8]], dtype=np.float32)
    assert Standardisation.fit(values).apply(values).tolist() == [[pytest.approx(1)], [-1]]


def test_outliers_are_limited_on_both_sides():
    fitted = Standardisation.fit(np.array([[1.0], [-1.0]], dtype=np.float32), limit=3)
    values = fitted.apply(np.array([[50], [-50], [2.5]], dtype=np.float32))
    assert values.flatten().tolist() == [3, -3, 2.5]


def test_lists_restore_it():
    fitted = Standardisation.fit(TRAIN)
    again = Standardisation.from_lists(fitted.mean.tolist(), fitted.std.tolist())
    assert np.array_equal(again.apply(TRAIN), fitted.apply(TRAIN))


def test_wrong_statistics_are_refused():
    with pytest.raises(ValueError, match="one entry per feature"):
        Standardisation.from_lists([0.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="below 0"):
        Standardisation.from_lists([0.0], [-1.0])
    with pytest.raises(ValueError, match="3 features, but standardisation was fitted on 1"):
        Standardisation.from_lists([0.0], [1.0]).apply(TRAIN)
