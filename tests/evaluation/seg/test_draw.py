"""Facts about pixels: what is painted, with which colour, and what stays as it was."""

import numpy as np
import pytest

from evaluation.seg.draw import (
    DENSE,
    FILL,
    LONG_SIDE,
    colour_of,
    contact_sheet,
    draw_instances,
    enlarge,
    enlargement,
    side_by_side,
)
from structures import RLEMasks

SIZE = (500, 520)  # large enough not to be enlarged
TWO = ("cat", "dog")


def grey(size=SIZE, value=100):
    return np.full((*size, 3), value, dtype=np.uint8)


def rectangles(corners, size=SIZE):
    masks = np.zeros((len(corners), *size), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, corners, strict=True):
        mask[y1:y2, x1:x2] = True
    return RLEMasks.from_dense(masks, size)


def blended(colour, below=100):
    return [round((1 - FILL) * below + FILL * c) for c in colour]


def test_colours_are_distinct_and_stable():
    colours = [colour_of(k) for k in range(30)]
    distances = [
        np.abs(np.subtract(a, b)).sum() for k, a in enumerate(colours) for b in colours[:k]
    ]
    assert min(distances) > 40
    assert colour_of(0) == (255, 38, 38)
    assert colour_of(30) == colour_of(0)


def test_small_images_are_enlarged_by_whole_factors():
    assert [enlargement(s, 10) for s in (40, 128, 256, 360, LONG_SIDE, 2000)] == [8, 4, 2, 2, 1, 1]
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarge(image, 3)
    assert large.shape == (6, 6, 3)
    assert (large[:3, 3:] == image[0, 1]).all()
    assert draw_instances(grey((128, 100)), [], [], None, TWO).shape == (512, 400, 3)


def test_the_mask_is_tinted_and_the_rest_is_unchanged():
    image = grey()
    drawn = draw_instances(
        image, [[200, 100, 260, 180]], [1], rectangles([(200, 100, 260, 180)]), TWO
    )
    colour = colour_of(1)
    assert drawn[140, 230].tolist() == blended(colour)
    assert drawn[140, 200].tolist() == drawn[140, 201].tolist() == list(colour)  # contour, 2 px
    assert drawn[140, 202].tolist() == [v // 2 for v in blended(colour)]  # dark line beside it
    assert drawn[179, 230].tolist() == list(colour)
    outside = np.ones(SIZE, dtype=bool)
    outside[100:180, 200:260] = False
    outside[75:100, 200:330] = False  # where the name stands
    assert (drawn[outside] == 100).all()
    assert (drawn[75:100, 200:330] == colour).all(axis=-1).any()  # the name's ground
    assert (image == 100).all()  # the argument is left alone


def test_the_mask_in_a_small_image_keeps_its_pixels():
    drawn = draw_instances(
        grey((64, 64)), [[10, 20, 30, 50]], [0], rectangles([(10, 20, 30, 50)], (64, 64)), TWO
    )
    scale = drawn.shape[0] // 64
    changed = (drawn != 100).any(axis=-1)
    assert scale == 8
    assert changed[20 * scale : 50 * scale, 10 * scale : 30 * scale].all()
    assert not changed[50 * scale :].any()
    assert not changed[:, : 10 * scale].any()
    assert not changed[20 * scale :, 30 * scale :].any()


def test_a_mask_is_not_turned():
    mask = np.zeros((1, 64, 64), dtype=bool)
    mask[0, 10:30, 20] = mask[0, 10, 20:50] = True  # an upside-down L with unequal arms
    drawn = draw_instances(grey((64, 64)), [[0, 0, 0, 0]], [0], RLEMasks.from_dense(mask), ("x",))
    np.testing.assert_array_equal((drawn[4::8, 4::8] != 100).any(axis=-1), mask[0])


def test_the_best_score_is_on_top():
    corners = [(100, 100, 200, 200), (150, 100, 250, 200)]
    for scores, top in (([0.9, 0.1], 0), ([0.1, 0.9], 1)):
        drawn = draw_instances(grey(), corners, [0, 1], rectangles(corners), TWO, scores=scores)
        under = blended(colour_of(1 - top))
        pairs = zip(under, colour_of(top), strict=True)
        expected = [round((1 - FILL) * u + FILL * c) for u, c in pairs]
        assert drawn[150, 175].tolist() == expected


def test_boxes_alone():
    drawn = draw_instances(grey(), [[50.4, 60.6, 150, 160]], [0], None, TWO)
    assert drawn[100, 50].tolist() == drawn[61, 100].tolist() == list(colour_of(0))
    assert drawn[100, 149].tolist() == drawn[159, 100].tolist() == list(colour_of(0))
    assert drawn[100, 150].tolist() == drawn[100, 100].tolist() == [100, 100, 100]


def test_one_class_is_coloured_by_instance_without_its_name():
    corners = [(100, 100, 200, 200), (300, 100, 400, 200)]
    drawn = draw_instances(grey(), corners, [0, 0], rectangles(corners), ("nucleus",))
    assert drawn[150, 150].tolist() == blended(colour_of(0))
    assert drawn[150, 350].tolist() == blended(colour_of(1))
    assert (drawn[:100] == 100).all()
    scored = draw_instances(
        grey(), corners, [0, 0], rectangles(corners), ("nucleus",), scores=[1, 1]
    )
    assert (scored[80:100, 100:130] != 100).any()


def test_dense_images_have_thin_contours_and_no_text():
    corners = [
        (20 * k % 500, 20 * (20 * k // 500) + 50, 20 * k % 500 + 12, 20 * (20 * k // 500) + 62)
        for k in range(DENSE + 1)
    ]
    drawn = draw_instances(
        grey(), corners, [0] * len(corners), rectangles(corners), TWO, scores=[0.5] * len(corners)
    )
    painted = rectangles(corners).decode().any(axis=0)
    assert (drawn[~painted] == 100).all()
    assert drawn[56, 0].tolist() == list(colour_of(0))
    assert drawn[56, 1].tolist() == blended(colour_of(0))
    fewer = draw_instances(grey(), corners[:-1], [0] * DENSE, rectangles(corners[:-1]), TWO)
    assert (fewer[~painted] != 100).any()


def test_a_crowd_is_hatched():
    corners = [(100, 100, 200, 200)]
    drawn = draw_instances(grey(), corners, [0], rectangles(corners), TWO, crowd=[True])
    inner = drawn[110:190, 110:190].reshape(-1, 3)
    untouched = (inner == 100).all(axis=1).mean()
    tinted = (inner == blended(colour_of(0))).all(axis=1).mean()
    assert untouched == pytest.approx(0.5, abs=0.01)
    assert tinted == pytest.approx(0.5, abs=0.01)


def test_names_do_not_cover_each_other():
    corners = [(100, 100, 200, 200)] * 2
    one = draw_instances(grey(), corners[:1], [0], None, TWO)
    two = draw_instances(grey(), corners, [1, 0], None, TWO, scores=[0.4, 0.9])
    ground = [(two == colour_of(k)).all(axis=-1) for k in (0, 1)]
    assert ground[0][75:100].any() and not ground[0][102:130, 102:180].any()  # best: above the box
    assert ground[1][102:115, 102:130].any() and not ground[1][75:100].any()  # other: inside it
    assert (one != 100).any()


def test_empty_and_degenerate():
    assert (draw_instances(grey(), [], [], RLEMasks.from_runs([], SIZE), TWO) == 100).all()
    hollow = rectangles([(0, 0, 0, 0)])
    drawn = draw_instances(grey(), [[5, 5, 5, 5]], [0], hollow, ("thing",))
    assert (drawn == 100).all()


def test_arguments_that_disagree():
    masks = rectangles([(0, 0, 5, 5)])
    with pytest.raises(ValueError, match="uint8"):
        draw_instances(grey().astype(float), [], [], None, TWO)
    with pytest.raises(ValueError, match="2 boxes but 1 masks"):
        draw_instances(grey(), [[0, 0, 5, 5]] * 2, [0, 0], masks, TWO)
    with pytest.raises(ValueError, match="1 boxes but labels"):
        draw_instances(grey(), [[0, 0, 5, 5]], [0, 0], masks, TWO)
    with pytest.raises(ValueError, match="masks of size"):
        draw_instances(grey((9, 9)), [[0, 0, 5, 5]], [0], masks, TWO)


def test_a_sheet_places_images_row_by_row():
    images = [grey((10, 20), 10), grey((16, 12), 20), grey((8, 8), 30)]
    sheet = contact_sheet(images, columns=2, gap=4)
    assert sheet.shape == (4 + (16 + 4) + (8 + 4), 2 * (20 + 4) + 4, 3)
    assert (sheet[4:14, 4:24] == 10).all()
    assert (sheet[4:20, 28:40] == 20).all()
    assert (sheet[24:32, 4:12] == 30).all()
    assert (sheet[24:, 28:] == 255).all()
    assert contact_sheet(images[:1], columns=5, gap=4).shape == (18, 28, 3)
    with pytest.raises(ValueError, match="0 images"):
        contact_sheet([], columns=2)
    with pytest.raises(ValueError, match="1 captions for 3 images"):
        contact_sheet(images, columns=2, captions=["a"])


def test_side_by_side_has_captions_above():
    pair = side_by_side(grey((30, 40), 10), grey((30, 40), 20))
    assert (pair[-38:-8, 8:48] == 10).all()
    assert (pair[-38:-8, 56:96] == 20).all()
    assert (pair[8:-38, 8:48] < 128).any()
    assert (pair[8:-38, 56:96] < 128).any()
