"""Colours of an image and their masks must come to lie on one another, whatever the matrix."""

import numpy as np
import pytest

from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.transforms.affine import Matrix, apply, draw_affine, letterbox, mirror, shift
from datamodules.transforms.cutouts import Cutout
from datamodules.transforms.hsv import change_colours, draw_colours
from datamodules.transforms.warp import warp

DISCS = [(40.3, 30.7, 17.2), (90.1, 60.2, 22.4), (30.5, 75.5, 12.3)]  # x, y, radius
SIZE = (96, 128)
OPTIONS = {
    "scale and shift": {},
    "rotation": {"degrees": 40},
    "shear": {"shear": 20},
    "perspective": {"perspective": 0.001},
    "all": {"degrees": 20, "shear": 10, "perspective": 0.0007},
}


def disc_masks(size=SIZE, factor=1.0):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return [
        (x - cx * factor) ** 2 + (y - cy * factor) ** 2 <= (r * factor) ** 2 for cx, cy, r in DISCS
    ]


def image_of(masks):
    source = np.full((*masks[0].shape, 3), 20, dtype=np.uint8)
    for channel, mask in enumerate(masks):
        source[mask, channel] = 250
    return source


def drawn(way, size, background=0):
    """Return the canvas as an object of the class Canvas makes it."""
    canvas = np.full((*size, 3), background, dtype=np.uint8)
    part, inside = canvas[way.rows, way.columns], way.inside()
    part[inside if inside is not None else slice(None)] = way.image(None)[
        inside if inside is not None else slice(None)
    ]
    return canvas


def full(cutout, size):
    mask = np.zeros(size, dtype=bool)
    if cutout is not None:
        mask[cutout.place] = cutout.mask
    return mask


def seen(source, channel):
    """Return where a disc's colour covers more than half of the pixel."""
    others = np.delete(source, channel, axis=2).max(axis=2).astype(int)
    return source[..., channel].astype(int) - others > 115


def centre(mask):
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


def middle_of(outline):
    """Return the centre of gravity of a polygon."""
    following = np.roll(outline, -1, axis=0)
    cross = outline[:, 0] * following[:, 1] - following[:, 0] * outline[:, 1]
    return ((outline + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())


@pytest.mark.parametrize("mirrored", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("kind", OPTIONS)
def test_masks_colours_and_matrix_agree(kind, mirrored):
    options = MosaicOptions(size=160, scale=0.6, **OPTIONS[kind])
    rng = np.random.default_rng(len(kind))
    masks = disc_masks()
    source, canvas = image_of(masks), (160, 160)
    offsets, errors = [], []
    for _ in range(12):
        matrix = mirror(160, *mirrored) @ draw_affine(rng, options, 160, 160) @ letterbox(SIZE, 160)
        way = warp(source, matrix, canvas)
        image = drawn(way, canvas)
        for k, (mask, disc) in enumerate(zip(masks, DISCS, strict=True)):
            found = full(way.cutout(Cutout(mask, 0, 0)), canvas)
            colour = seen(image, k)
            rim = np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]])
            if rim.any() or found.sum() < 60:
                continue  # cut discs have no outline to compare
            outline = np.sqrt(4 * np.pi * found.sum())
            assert (found != colour).sum() < 0.5 * outline
            offsets.append(centre(found) - centre(colour))
            around = np.array([disc[:2]]) + disc[2] * np.array(
                [(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 400, endpoint=False)]
            )
            edge = apply(way.matrix, around)
            errors.append(centre(found) - middle_of(edge))
            asked = apply(matrix, around)
            limit = 1.5 * max(1, np.linalg.norm(matrix[:2, 0]))  # A226: a pixel of either side
            assert np.abs(asked - edge).max() < (limit if kind == "scale and shift" else 1e-6)
    assert len(offsets) >= 8
    assert np.abs(offsets).max() < 0.5
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.06  # a corner convention would give 0.5
    assert np.abs(errors).max() < 0.35
    assert np.abs(np.mean(errors, axis=0)).max() < 0.08


def test_nothing_changes_by_the_identity():
    masks = disc_masks()
    source = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    way = warp(source, np.eye(3), SIZE)
    assert np.array_equal(drawn(way, SIZE), source)
    for mask in masks:
        assert np.array_equal(full(way.cutout(Cutout(mask, 0, 0)), SIZE), mask)
    assert np.array_equal(way.matrix, np.eye(3))


@pytest.mark.parametrize("turned", [0, 1, 2, 3])
def test_quarter_turns_and_whole_shifts_are_exact(turned):
    source = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    mask = np.random.default_rng(1).integers(0, 2, (40, 40)).astype(bool)
    matrix: Matrix = np.eye(3)
    quarter = np.array([[0.0, 1, 0], [-1, 0, 40], [0, 0, 1]])  # counter-clockwise, as np.rot90
    for _ in range(turned):
        matrix = quarter @ matrix
    canvas = (50, 60)
    way = warp(source, shift(7, 3) @ matrix, canvas)
    expected = np.zeros((*canvas, 3), dtype=np.uint8)
    expected[3:43, 7:47] = np.rot90(source, turned)
    assert np.array_equal(drawn(way, canvas), expected)
    assert np.array_equal(
        full(way.cutout(Cutout(mask, 0, 0)), canvas), expected_mask(np.rot90(mask, turned), canvas)
    )


def expected_mask(mask, canvas):
    expected = np.zeros(canvas, dtype=bool)
    expected[3:43, 7:47] = mask
    return expected


@pytest.mark.parametrize("mirrored", [(False, False), (True, True)])
@pytest.mark.parametrize("offset", [(-13, -9), (41, 17), (-5, 30)])
def test_parts_beyond_the_canvas_by_slices(offset, mirrored):
    source = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mask = np.random.default_rng(1).integers(0, 2, (9, 11)).astype(bool)
    flip = shift(50, 40) @ np.diag([-1.0, -1, 1]) if all(mirrored) else np.eye(3)
    canvas = (44, 48)
    way = warp(source, shift(*offset) @ flip, canvas)
    frame = np.zeros((200, 200, 3), dtype=np.uint8)
    place = (slice(60 + offset[1], 100 + offset[1]), slice(60 + offset[0], 110 + offset[0]))
    frame[place] = source[::-1, ::-1] if all(mirrored) else source
    marks = np.zeros((40, 50), dtype=bool)
    marks[20:29, 30:41] = mask
    covered = np.zeros((200, 200), dtype=bool)
    covered[place] = marks[::-1, ::-1] if all(mirrored) else marks
    assert np.array_equal(drawn(way, canvas), frame[60:104, 60:108])
    found = full(way.cutout(Cutout(mask, 20, 30)), canvas)
    assert np.array_equal(found, covered[60:104, 60:108])


@pytest.mark.parametrize("degrees", [0, 30])
def test_strong_shrinking_does_not_alias(degrees):
    """Stripes of one pixel become grey, and masks stay where the colours are."""
    stripes = np.zeros((300, 300, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    rng = np.random.default_rng(0)
    options = MosaicOptions(size=100, scale=0, translate=0, degrees=degrees)
    matrix = draw_affine(rng, options, 100, 100) @ letterbox((300, 300), 100) @ np.eye(3)
    image = warp(stripes, shift(20, 20) @ matrix @ np.diag([0.6, 0.6, 1]), (100, 100)).image(None)
    assert image.std() < 30  # 5 px of stripes a pixel; sampled, 127
    masks = disc_masks((384, 512), 4)
    way = warp(image_of(masks), np.diag([0.21, 0.21, 1]) @ shift(3, 5), (100, 120))
    image = drawn(way, (100, 120))
    for k, mask in enumerate(masks):
        found = full(way.cutout(Cutout(mask, 0, 0)), (100, 120))
        assert np.abs(centre(found) - centre(seen(image, k))).max() < 0.25
        moved = apply(way.matrix, 4 * np.array([DISCS[k][:2]]))[0]
        assert np.abs(centre(found) - moved).max() < 0.3


def test_what_is_not_on_the_canvas_is_none():
    source = image_of(disc_masks())
    assert warp(source, shift(200, 0), (100, 100)) is None
    turned = np.array([[0.0, -1, -200], [1, 0, 0], [0, 0, 1]])
    assert warp(source, turned, (100, 100)) is None
    way = warp(source, shift(-60, 0), (100, 100))
    assert way.cutout(Cutout(np.ones((5, 5), dtype=bool), 10, 10)) is None
    leaning = shift(-60, 0) + np.array([[0, 0.1, 0], [0, 0, 0], [0, 0, 0]])
    way = warp(source, leaning, (100, 100))
    assert way.cutout(Cutout(np.ones((5, 5), dtype=bool), 10, 10)) is None


def test_a_corner_behind_the_viewer_is_refused():
    matrix = np.eye(3)
    matrix[2, 0] = -0.02
    with pytest.raises(ValueError, match="lower mosaic.perspective"):
        warp(image_of(disc_masks()), matrix, (100, 100))


def test_thin_slivers_at_the_border():
    source = np.full((40, 40, 3), 200, dtype=np.uint8)
    everywhere = Cutout(np.ones((40, 40), dtype=bool), 0, 0)
    for x in np.linspace(-45, 25, 57):
        for factor in (0.3, 0.7, 1.0, 4.1):
            matrix = shift(x, x / 2) @ np.diag([factor, factor, 1])
            way = warp(source, matrix, (24, 24))
            stop = min(x, x / 2) * 1.0 + 40 * factor
            if way is None:
                assert stop <= 0.5 or x >= 23.5
                continue
            found = full(way.cutout(everywhere), (24, 24))
            assert np.array_equal(found, drawn(way, (24, 24))[..., 0] == 200)


TURNED = shift(50.3, 20.7) @ np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
LEANING = shift(5.3, 4.8) @ np.array([[1, 1e-3, 0], [1e-3, 1, 0], [0, 0, 1.0]])


@pytest.mark.parametrize("matrix", [TURNED, LEANING])
def test_a_turned_image_has_all_pixels_whose_centres_it_covers(matrix):
    """But for those nearer than a tenth of a pixel to its border, where arithmetic decides."""
    way = warp(np.full((20, 30, 3), 9, dtype=np.uint8), matrix, (90, 90))
    rows, columns = np.mgrid[:90, :90] + 0.5
    places = apply(np.linalg.inv(matrix), np.stack([columns.ravel(), rows.ravel()], axis=1))
    depth = np.minimum(places, [30, 20] - places).min(axis=1).reshape(90, 90)
    sure = np.abs(depth) > 0.1
    drawn_on = np.zeros((90, 90), dtype=bool)
    drawn_on[way.rows, way.columns] = way.inside()
    masked = full(way.cutout(Cutout(np.ones((20, 30), dtype=bool), 0, 0)), (90, 90))
    assert np.array_equal(drawn_on[sure], depth[sure] > 0)
    assert np.array_equal(masked[sure], depth[sure] > 0)


def test_a_turned_image_is_interpolated():
    """A quarter turn and half a pixel: each pixel is the mean of two neighbours."""
    source = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[:, None, None], 20, axis=1)
    turned = shift(20.5, 0) @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    image = drawn(warp(source.repeat(3, axis=2), turned, (20, 24)), (20, 24))
    assert np.array_equal(image[10, 1:20, 0], np.arange(185, 0, -10))


def test_a_turned_image_that_is_averaged_first_keeps_its_matrix():
    """7 pixels become 2 and 301 become 90, other ratios than asked for."""
    matrix = TURNED @ np.diag([0.3, 0.3, 1])
    way = warp(np.zeros((301, 7, 3), dtype=np.uint8), matrix, (150, 150))
    assert np.allclose(way.matrix, matrix)
    tall = np.zeros((301, 7, 3), dtype=np.uint8)
    tall[250:] = 200
    image = drawn(warp(tall, matrix, (150, 150)), (150, 150))
    mask = full(way.cutout(Cutout(np.ones((51, 7), dtype=bool), 250, 0)), (150, 150))
    assert np.abs(centre(image[..., 0] > 100) - centre(mask)).max() < 0.5


def test_what_shrinks_to_less_than_half_on_both_axes_is_averaged():
    stripes = np.zeros((300, 300, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    for matrix in (np.diag([0.35, 0.35, 1]), TURNED @ np.diag([0.35, 0.35, 1])):
        way = warp(stripes, shift(40, 0) @ matrix, (150, 150))
        inside = way.inside()
        image = way.image(None)[slice(None) if inside is None else inside]
        assert image.std() < 40  # sampled, more than 70
    one_axis = warp(stripes, np.diag([1, 0.3, 1]), (150, 300)).image(None)
    assert np.array_equal(one_axis, stripes[:90])


@pytest.mark.parametrize("matrix", [np.diag([1.5, 1.5, 1]), np.diag([0.7, 0.7, 1]), TURNED])
def test_colours_change_however_an_image_is_drawn(matrix):
    colours = draw_colours(np.random.default_rng(1), (0.1, 0.5, 0.9))
    way = warp(np.full((20, 30, 3), (90, 30, 60), dtype=np.uint8), matrix, (90, 90))
    expected = change_colours(way.image(None), colours)
    assert np.array_equal(way.image(colours), expected)
    assert not np.array_equal(expected, way.image(None))


def test_ends_are_rounded_to_the_next_whole_pixel():
    way = warp(np.zeros((20, 30, 3), dtype=np.uint8), shift(10.7, 4.2), (90, 90))
    assert (way.rows, way.columns) == (slice(4, 24), slice(11, 41))


def test_centres_between_two_pixels_take_one_and_the_other_in_turn():
    """Half the size: pixels 0 or 1, 2 or 3, 4 or 5, 6 or 7; always the first would move masks."""
    way = warp(np.zeros((8, 8, 3), dtype=np.uint8), np.diag([0.5, 0.5, 1]), (4, 4))
    rows = np.isin(np.arange(8), (0, 3, 4, 7))
    found = way.cutout(Cutout(rows[:, None] & rows[None], 0, 0))
    assert np.array_equal(full(found, (4, 4)), np.ones((4, 4), dtype=bool))
    assert way.cutout(Cutout(~rows[:, None] & rows[None], 0, 0)) is None
