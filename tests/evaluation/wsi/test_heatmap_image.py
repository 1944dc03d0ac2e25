"""Layout and colours of the images."""

import numpy as np

from evaluation.wsi.heatmap import Place
from evaluation.wsi.heatmap_image import BAR, OPACITY, PATCH, ScoreMap, draw_extremes, draw_maps

COORDS = np.array([[0, 0], [100, 0], [200, 0], [300, 0]])
VALUES = np.array([-3.0, 0.0, 1.5, 3.0])
PLACE = Place((300, 200), 2.0)


def drawn(*maps):
    thumbnail = np.full((300, 200, 3), 200, np.uint8)
    return draw_maps(thumbnail, maps, COORDS, 100, PLACE, "slide 7").astype(int)


def test_signed_scores_are_blue_below_and_red_above_0():
    image = drawn(ScoreMap("logit", VALUES, signed=True))
    blue, white, _, red = (image[25, 25 + 50 * n] for n in range(4))
    for seen, colour in ((blue, (33, 102, 172)), (white, (247,) * 3), (red, (178, 24, 43))):
        mixed = (1 - OPACITY) * 200 + OPACITY * np.array(colour)
        np.testing.assert_allclose(seen, mixed, atol=1)
    assert (image[60:300, :200] == 200).all()  # below the patches


def test_a_row_has_scores_and_ranks_each_with_its_bar():
    image = drawn(ScoreMap("weight", abs(VALUES)))
    assert image.shape == (300, 2 * (200 + BAR), 3)
    assert (image[25, 25] != image[25, 200 + BAR + 25]).any()  # |-3| is large, its rank is not
    for start in (200, 200 + BAR + 200):
        panel = image[:, start : start + BAR]
        assert (panel[:85] < 128).any()  # words
        assert (abs(panel[95:] - 255) > 60).any()  # colours


def test_each_class_has_a_row_and_a_narrow_image_room_for_its_bar():
    maps = [ScoreMap(f"logit {name}", VALUES, signed=True) for name in "abc"]
    assert drawn(*maps).shape[0] == 900
    low = draw_maps(np.zeros((10, 200, 3), np.uint8), maps[:1], COORDS, 100, Place((10, 200), 2.0))
    assert low.shape[0] > 100
    assert (low[10:, :200] == 255).all()


def test_scores_that_are_all_0_can_be_drawn():
    assert np.isfinite(drawn(ScoreMap("weight", np.zeros(4)))).all()
    assert np.isfinite(drawn(ScoreMap("logit", np.zeros(4), signed=True))).all()


def test_the_extreme_patches_are_the_highest_and_the_lowest():
    read = []

    def pixels(x, y):
        read.append(x)
        return np.zeros((8, 8, 3), np.uint8)

    image = draw_extremes([ScoreMap("logit", VALUES, signed=True)], COORDS, pixels, 3)
    assert read == [300, 200, 100, 0, 100, 200]
    assert image.shape[1] == 4 * (PATCH + 8)
    read.clear()
    draw_extremes([ScoreMap("logit", VALUES)], COORDS, pixels, 9)  # more than there are
    assert len(read) == 8
