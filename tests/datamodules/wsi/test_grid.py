"""The grid of patches: nothing drifts, nothing is left out."""

import numpy as np
import pytest

from datamodules.wsi.grid import grid


def test_grid():
    found = grid((100, 50, 1000, 600), 337.5)
    x, y = [100, 438, 775], [50, 388]  # 0, 337.5 and 675 rounded; the last ones reach beyond
    assert found.tolist() == [[a, b] for b in y for a in x]
    assert found.dtype == np.int64


@pytest.mark.parametrize("step", [168.784, 337.5, 106.66666666666667, 448.0])
def test_nothing_drifts(step):
    x = grid((7, 0, 200_000, 1), step)[:, 0]
    assert np.abs(x - 7 - np.arange(len(x)) * step).max() <= 0.5
    assert len(x) == np.ceil(200_000 / step)


def test_a_slide_that_whole_patches_fill():
    assert len(grid((0, 0, 3 * 448, 448), 448.0)) == 3
    assert len(grid((0, 0, 1080, 360), 0.3 * 3 / 0.25 * 100)) == 3  # 360 up to rounding
    assert grid((5, 6, 10, 10), 224.0).tolist() == [[5, 6]]
    with pytest.raises(ValueError, match="the side of a patch must be positive"):
        grid((0, 0, 10, 10), 0.0)
