"""What the panels of the figure of corruptions show."""

import numpy as np
import pytest

from evaluation.robustness.corruption_figure import plot_corruptions
from evaluation.robustness.corruptions import corrupt

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)


def shown(figure):
    """Return the titles and the image of each panel that has one, row by row in each block."""
    found = [axes for axes in figure.axes if axes.images]
    return [
        (axes.get_title("left"), axes.get_title("right"), np.asarray(axes.images[0].get_array()))
        for axes in found
    ]


@pytest.mark.parametrize("names", [("zoom_blur", "saturate"), ("zoom_blur", "saturate") * 4])
def test_each_panel_has_its_corruption_and_severity(names):
    (first, *panels) = shown(plot_corruptions(IMAGE, names, (2, 5), seed=3))
    assert first[:2] == ("as it is", "")
    assert np.array_equal(first[2], IMAGE)
    assert len(panels) == 2 * len(names)
    for place, (name, severity, image) in enumerate(panels):
        wanted = names[place // 2], (2, 5)[place % 2]
        assert name == ("" if place % 2 else wanted[0].replace("_", " "))
        assert severity == str(wanted[1])
        assert np.array_equal(image, corrupt(IMAGE, *wanted, 3))


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="at least one corruption and one severity"):
        plot_corruptions(IMAGE, (), (1,), seed=0)
    with pytest.raises(ValueError, match="at least one corruption and one severity"):
        plot_corruptions(IMAGE, ("fog",), (), seed=0)
