import numpy as np
import pytest

from datamodules.transforms.affine import letterbox, shift
from datamodules.transforms.canvas import GREY, Canvas, Instance, Tile
from datamodules.transforms.copy_paste import paste_objects
from datamodules.transforms.cutouts import Cutout
from datamodules.transforms.hsv import draw_colours
from datamodules.transforms.label_maps import LabelMaps
from datamodules.transforms.mixup import mix
from structures import RLEMasks


def tile(masks, crowd=None, labels=None, colour=200):
    masks = np.asarray(masks)
    image = np.full((*masks.shape[1:], 3), colour, dtype=np.uint8)
    labels = np.arange(len(masks)) if labels is None else np.asarray(labels)
    crowd = np.zeros(len(masks), dtype=bool) if crowd is None else np.asarray(crowd)
    maps = LabelMaps.from_rle(RLEMasks.from_dense(masks))
    return Tile.of(image, maps, labels, crowd)


def square(size, top, left, side=4):
    mask = np.zeros(size, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def masks_of(canvas):
    masks = np.zeros((len(canvas.instances), *canvas.size), dtype=bool)
    for mask, thing in zip(masks, canvas.instances, strict=True):
        mask[thing.cutout.place] = thing.cutout.mask
    return masks


def test_images_side_by_side_keep_labels_crowds_and_areas():
    size = (20, 20)
    one = tile([square(size, 2, 3), square(size, 4, 5)], crowd=[False, True], labels=[7, 8])
    two = tile([square(size, 10, 10)], labels=[9], colour=50)
    canvas = Canvas(48)
    canvas.draw(one, shift(4, 4))
    canvas.draw(two, shift(24, 4) @ np.diag([1.1, 1.1, 1]))
    assert [x.label for x in canvas.instances] == [7, 8, 9]
    assert [x.crowd for x in canvas.instances] == [False, True, False]
    found = masks_of(canvas)
    assert np.array_equal(found[0], square((48, 48), 6, 7))
    assert np.array_equal(found[1], square((48, 48), 8, 9))
    assert [x.expected for x in canvas.instances] == pytest.approx([16, 16, 16 * 1.21])
    assert np.all(canvas.image[4:24, 4:24] == 200)
    assert np.all(canvas.image[4:26, 24:46] == 50)
    rest = canvas.image.copy()
    rest[4:24, 4:24] = rest[4:26, 24:46] = GREY
    assert np.all(rest == 114)


def test_expected_pixels_follow_what_was_drawn_where_the_object_is():
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:6, 3:13] = True
    rectangle = tile([mask])
    assert rectangle.centres.tolist() == [[8, 4]]  # x, y
    assert rectangle.pixels.tolist() == [40]
    canvas = Canvas(48)
    canvas.draw(rectangle, np.diag([1.04, 1.03, 1]))  # 31.2 and 20.6 become 31 and 21 pixels
    assert canvas.instances[0].expected == pytest.approx(40 * 31 / 30 * 21 / 20)
    leaning = np.array([[1.0, 0, 0], [0, 1, 0], [0.01, 0, 1]])
    canvas.draw(rectangle, leaning)
    assert canvas.instances[1].expected == pytest.approx(40 / 1.08**3)  # w = 1 + x / 100


def test_instances_beyond_the_canvas_or_without_a_pixel_are_left_out():
    size = (20, 20)
    three = tile([square(size, 0, 0), np.zeros(size, dtype=bool), square(size, 16, 16)])
    canvas = Canvas(20)
    canvas.draw(three, shift(-10, -10))
    assert [x.label for x in canvas.instances] == [2]
    canvas.draw(three, shift(90, 0))
    assert len(canvas.instances) == 1
    nothing = Canvas(20)
    nothing.draw(tile(np.zeros((0, 20, 20), dtype=bool)), shift(0, 0))
    assert nothing.instances == []
    assert np.all(nothing.image == 200)


def test_more_than_255_instances_of_one_image_each():
    size = (40, 40)
    many = [square(size, 2 * (k // 20), 2 * (k % 20), 1) for k in range(400)]
    canvas = Canvas(80)
    for position in ((0, 0), (40, 0), (0, 40), (40, 40)):
        canvas.draw(tile(many), shift(*position))
    assert len(canvas.instances) == 1600
    assert masks_of(canvas).sum() == 1600
    assert masks_of(canvas).any(axis=0).sum() == 1600


def instance(rows, columns, expected, crowd=False):
    return Instance(Cutout(np.ones((rows, columns), dtype=bool), 0, 0), 0, crowd, expected)


@pytest.mark.parametrize(
    ("thing", "visible"),
    [
        (instance(2, 2, 40), True),  # exactly a tenth, exactly two pixels
        (instance(2, 2, 41), False),
        (instance(1, 9, 9), False),
        (instance(9, 1, 9), False),
        (instance(1, 1, 900, crowd=True), True),
    ],
)
def test_what_has_nearly_vanished_is_not_visible(thing, visible):
    assert thing.is_visible(2.0, 0.1) is visible


class Chosen:
    """Takes the instances at the given places."""

    def __init__(self, *places):
        self.places = places

    def uniform(self, size):
        values = np.full(size, 0.9)
        values[list(self.places)] = 0.1
        return values


def test_pasted_objects_cover_what_lies_below():
    """Against dense masks, pixel by pixel."""
    size, rng = (32, 32), np.random.default_rng(0)
    below = [square(size, 0, 0, 12), square(size, 4, 4, 8), square(size, 20, 20, 10)]
    canvas, donor = Canvas(32), Canvas(32)
    canvas.draw(tile(below, crowd=[True, False, False]), np.eye(3))
    canvas.image[:] = rng.integers(0, 100, canvas.image.shape)
    above = [
        square(size, 3, 3, 10),
        square(size, 10, 8, 6),
        square(size, 22, 22, 4),
        square(size, 0, 24, 5),
        square(size, 28, 0, 1),
    ]
    donor.draw(tile(above, crowd=[0, 0, 0, 1, 0], labels=[10, 11, 12, 13, 14]), np.eye(3))
    donor.image[:] = rng.integers(100, 256, donor.image.shape)
    before = canvas.image.copy()
    paste_objects(Chosen(0, 1, 3, 4), canvas, donor, 2.0, 0.1)  # a crowd and a single pixel stay
    covered = above[0] | above[1]
    left = [m & ~covered for m in below]
    assert not left[1].any()  # entirely covered
    assert [x.label for x in canvas.instances] == [0, 2, 10, 11]
    assert np.array_equal(masks_of(canvas), [left[0], left[2], above[0], above[1]])
    assert np.array_equal(canvas.image, np.where(covered[..., None], donor.image, before))
    assert canvas.instances[0].cutout.mask.any(axis=0).all()  # tight again
    assert canvas.instances[0].expected == 144
    assert len(donor.instances) == 5


def test_a_pasted_object_does_not_uncover_what_another_covers():
    size = (12, 12)
    frame = square(size, 2, 2, 8)
    frame[4:8, 4:8] = False
    canvas, donor = Canvas(12), Canvas(12)
    canvas.draw(tile([square(size, 0, 0, 12)]), np.eye(3))
    donor.draw(tile([square(size, 4, 4), frame], labels=[1, 2], colour=50), np.eye(3))
    paste_objects(Chosen(0, 1), canvas, donor, 2.0, 0.1)
    whole = square(size, 2, 2, 8)
    assert np.array_equal(masks_of(canvas)[0], ~whole)
    assert np.array_equal(canvas.image[..., 0] == 50, whole)


def test_what_is_hardly_seen_of_the_donor_is_not_pasted():
    size = (24, 24)
    for left, count in ((-14, 1), (-15, 0)):  # of 16 columns 4 and 3 are left
        canvas, donor = Canvas(24), Canvas(24)
        donor.draw(tile([square(size, 2, 2, 16)]), shift(left, 0))
        paste_objects(Chosen(0), canvas, donor, 2.0, 0.25)
        assert len(canvas.instances) == count


def test_half_of_the_objects_are_pasted_on_average():
    size = (40, 40)
    canvas, donor = Canvas(40), Canvas(40)
    donor.draw(tile([square(size, 4 * (k // 10), 4 * (k % 10), 3) for k in range(100)]), np.eye(3))
    paste_objects(np.random.default_rng(0), canvas, donor, 2.0, 0.1)
    assert 35 < len(canvas.instances) < 65


def test_mixup_blends_and_keeps_all_instances():
    size = (16, 16)
    canvas, other = Canvas(16), Canvas(16)
    canvas.draw(tile([square(size, 2, 2)], labels=[1], colour=0), np.eye(3))
    other.draw(tile([square(size, 3, 3)], labels=[2], colour=250), np.eye(3))
    shares = []
    for seed in range(300):
        mixed = Canvas(16)
        mixed.draw(tile([square(size, 2, 2)], labels=[1], colour=0), np.eye(3))
        mix(np.random.default_rng(seed), mixed, other)
        assert np.ptp(mixed.image) == 0
        share = np.random.default_rng(seed).beta(32, 32)
        assert mixed.image[0, 0, 0] == pytest.approx(250 * (1 - share), abs=0.6)
        shares.append(1 - mixed.image[0, 0, 0] / 250)
    # Beta(32, 32): mean 1 / 2, variance 1 / (4 * 65)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.015)
    assert np.var(shares) == pytest.approx(1 / 260, rel=0.25)
    mix(np.random.default_rng(0), canvas, other)
    assert [x.label for x in canvas.instances] == [1, 2]
    assert np.array_equal(masks_of(canvas), [square(size, 2, 2), square(size, 3, 3)])
    assert len(other.instances) == 1


@pytest.mark.parametrize("side", [20, 80])
def test_grey_stays_grey_when_colours_change(side):
    colours = draw_colours(np.random.default_rng(1), (0.1, 0.5, 0.9))
    image = tile(np.zeros((0, 40, 20), dtype=bool), colour=90)
    canvas = Canvas(side, colours)
    canvas.draw(image, letterbox((40, 20), side))
    quarter = side // 4
    assert np.all(canvas.image[:, :quarter] == 114)
    assert np.all(canvas.image[:, -quarter:] == 114)
    middle = canvas.image[:, quarter:-quarter]
    assert np.ptp(middle) == 0
    assert middle[0, 0, 0] == colours[0, 90, 2] != 90
