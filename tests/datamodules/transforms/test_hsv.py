import colorsys

import numpy as np
import pytest

from datamodules.transforms.hsv import change_colours, draw_colours


class Fixed:
    def __init__(self, *values):
        self.values = np.array(values)

    def uniform(self, low, high, count):
        assert (low, high, count) == (-1, 1, 3)
        return self.values


@pytest.mark.parametrize(
    "drawn", [(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, -1), (0.5, 0.3, 1)]
)
def test_as_colorsys(drawn):
    gains = (0.1, 0.7, 0.4)
    colours = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    found = change_colours(colours, draw_colours(Fixed(*drawn), gains))
    for before, after in zip(colours.reshape(-1, 3) / 255, found.reshape(-1, 3) / 255, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        hue = (hue + drawn[0] * gains[0]) % 1
        saturation = min(1, saturation * (1 + drawn[1] * gains[1]))
        value = min(1, value * (1 + drawn[2] * gains[2]))
        assert (
            np.abs(np.array(colorsys.hsv_to_rgb(hue, saturation, value)) - after).max() < 0.045
        )  # hue in 256 steps


def test_ranges_are_reached_on_both_sides():
    rng = np.random.default_rng(0)
    tables = [draw_colours(rng, (0.1, 0.5, 0.4)) for _ in range(300)]
    hues = [int(t[0, 100, 0]) - 100 for t in tables]
    assert -26 <= min(hues) <= -25 and 25 <= max(hues) <= 26
    for column, gain in ((1, 0.5), (2, 0.4)):
        factors = [t[0, 100, column] / 100 for t in tables]
        assert min(factors) == pytest.approx(1 - gain, abs=0.02)
        assert max(factors) == pytest.approx(1 + gain, abs=0.02)
        assert all(
            t[0, :, column].max() <= 255 and np.all(np.diff(t[0, :, column].astype(int)) >= 0)
            for t in tables
        )


def test_tables_by_hand():
    table = draw_colours(Fixed(-0.5, 0.5, -1), (0.1, 0.7, 0.4))
    # 12.8 steps of the circle back; times 1.35 and 0.6, rounded and held at 255
    assert table[0, [0, 13, 255], 0].tolist() == [243, 0, 242]
    assert table[0, [2, 3, 200], 1].tolist() == [3, 4, 255]
    assert table[0, [1, 2, 3, 255], 2].tolist() == [1, 1, 2, 153]


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_gain_alone_changes_its_own_channel(channel):
    gains = np.zeros(3)
    gains[channel] = 0.3
    table = draw_colours(Fixed(1, 1, 1), tuple(gains))
    changed = [not np.array_equal(table[0, :, k], np.arange(256)) for k in range(3)]
    assert changed == [k == channel for k in range(3)]


def test_without_gains_bytes_are_the_same():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    table = draw_colours(np.random.default_rng(0), (0, 0, 0))
    assert table is None
    assert change_colours(image, table) is image
