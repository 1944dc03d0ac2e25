"""Tiles: what they find together is what the whole image gives."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from models.seg.inference.predict import InferenceOptions, predict
from models.seg.inference.tiled import Span, Tile, merge_tiles, predict_tiled, spans
from structures import Instances, RLEMasks
from tests.support.colour_segmentor import ColourSegmentor, as_batch, assert_same, paint

SCENE = [
    ("disc", 30, 30, 12, 0),  # over the corner of four tiles of 32
    ("disc", 62, 14, 7, 1),
    ("disc", 76, 14, 7, 1),  # touches the one before, of the same class
    ("bar", 3, 60, 90, 66, 0),  # through all tiles of a row
    ("bar", 44, 20, 50, 79, 2),  # and of a column, across the other
    ("disc", 10, 10, 3, 0),
    ("bar", 85, 70, 96, 80, 0),  # in the last corner
    ("bar", 20, 72, 21, 73, 1),  # one pixel
]
IMAGE = paint((80, 96), SCENE)


def tiled(batch, tile, overlap, model=None, iou=0.5, tile_batch=3):
    return predict_tiled(model or ColourSegmentor(), batch, tile, overlap, iou, tile_batch)


@pytest.mark.parametrize("tile", [17, 32, 50, 79])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_as_the_whole_image(tile, share):
    batch = as_batch([IMAGE])
    whole = ColourSegmentor().predict(batch)[0]
    (found,) = tiled(batch, tile, max(1, int(tile * share)))
    assert_same(found, whole)
    assert len(found) == len(SCENE) + 1  # the bar is cut in two by the one on top of it


@pytest.mark.parametrize(
    "original", [(160, 192), (240, 96), (40, 48), (120, 144), (53, 64)], ids=str
)
@pytest.mark.parametrize(("tile", "overlap"), [(32, 8), (48, 3)])
def test_scales_that_are_ratios_of_small_numbers_are_exact(original, tile, overlap):
    big = [(kind, *(3 * v for v in where), label) for kind, *where, label in SCENE[:-1]]
    image = paint((240, 288), big)[:, 1::3, 1::3]
    batch = as_batch([image], [original])
    (found,) = tiled(batch, tile, overlap)
    whole = ColourSegmentor().predict(batch)[0]
    if original != (53, 64):  # 80 to 53: no pixel borders in common
        assert_same(found, whole)
    assert found.labels.tolist() == whole.labels.tolist()
    for ours, theirs in zip(found.masks.decode(), whole.masks.decode(), strict=True):
        assert (ours & theirs).sum() >= 0.6 * (ours | theirs).sum()


def test_other_scales_are_off_by_a_pixel_at_most():
    image = paint((80, 97), [("disc", 30, 30, 14, 0), ("disc", 62, 40, 16, 1)])
    batch = as_batch([image], [(111, 131)])
    (found,), (whole,) = tiled(batch, 40, 10), ColourSegmentor().predict(batch)
    assert found.labels.tolist() == whole.labels.tolist()
    assert (found.boxes - whole.boxes).abs().max() <= 1
    for ours, theirs in zip(found.masks.decode(), whole.masks.decode(), strict=True):
        assert (ours & theirs).sum() >= 0.93 * (ours | theirs).sum()


def test_spans_cover_overlap_and_are_equal():
    random = np.random.default_rng(0)
    for _ in range(300):
        length, tile = random.integers(2, 400), random.integers(2, 90)
        overlap = random.integers(1, tile // 2 + 1)
        original = random.choice([length, 2 * length, length * 3 // 2 + 1, 211, 1])
        found = spans(int(length), int(original), int(tile), int(overlap))
        assert found[0].start == found[0].first == 0
        assert (found[-1].stop, found[-1].last) == (length, original)
        assert len({s.stop - s.start for s in found}) == 1
        assert all(s.stop - s.start <= tile and s.first < s.last <= original for s in found)
        for one, following in itertools.pairwise(found):
            assert one.stop - following.start >= overlap
            assert one.start < following.start


def test_spans_by_hand():
    assert spans(10, 20, 10, 3) == [Span(0, 10, 0, 20)]
    # 100 in tiles of 40 that share 10: starts 0, 30, 60
    assert spans(100, 100, 40, 10) == [Span(s, s + 40, s, s + 40) for s in (0, 30, 60)]
    # 96 to 64: pixels meet at every third, so 32 becomes 30 and 8 becomes 9
    found = spans(96, 64, 32, 8)
    assert found[1] == Span(15, 45, 10, 30)
    # no common borders: rounded to the nearest pixel
    assert spans(97, 131, 50, 5)[1] == Span(23, 73, 31, 99)


def test_images_that_fit_are_predicted_as_they_are():
    model = ColourSegmentor()
    batch = as_batch([IMAGE, IMAGE[:, :50]])
    found = tiled(batch, 96, 20, model)
    assert model.batches == [batch]
    assert_same(found[0], ColourSegmentor().predict(batch)[0])


def test_a_batch_of_images_of_all_sizes():
    empty = torch.zeros(3, 70, 40)
    images = [IMAGE, empty, IMAGE[:, :20, :30], IMAGE[:, 20:, 5:]]
    model = ColourSegmentor()
    found = tiled(as_batch(images), 32, 8, model, tile_batch=3)
    for one, image in zip(found, images, strict=True):
        assert_same(one, ColourSegmentor().predict(as_batch([image]))[0])
    assert max(shape[0] for shape in model.shapes) == 3
    assert (3, 3, 32, 32) in model.shapes
    assert (1, 3, 20, 30) in model.shapes
    assert len(found[1]) == 0
    assert found[1].size == (70, 40)
    own = {int(i) for batch in model.batches for i in batch.index}
    assert own == {5, 6, 7, 8}
    assert all(len(batch.boxes) == 0 for batch in model.batches)


def test_the_image_has_its_own_cap():
    whole = ColourSegmentor().predict(as_batch([IMAGE]))[0]
    batch, model = as_batch([IMAGE]), ColourSegmentor(max_dets=5)
    for views in ({}, {"flip": True}):
        options = InferenceOptions(tile=40, overlap=10, **views)
        (found,) = predict(model, batch, options)
        assert len(found) == len(SCENE) + 1 > model.max_dets  # that of a tile; nothing is lost
        assert_same(found, whole)
        with pytest.warns(UserWarning, match="than tile_max_dets of 4; those with the lowest"):
            (best,) = predict(model, batch, dataclasses.replace(options, tile_max_dets=4))
        assert_same(best, whole.select(torch.arange(4)))


def test_the_cap_of_tiles_is_for_images_that_are_cut(recwarn):
    """Beside one that is: 5 objects fit into a tile, and the model's cap is 2."""
    small = paint((40, 40), [("disc", x, y, 4, 0) for x in (8, 20, 32) for y in (8, 20)])
    model, batch = ColourSegmentor(max_dets=2), as_batch([small, IMAGE[:, :, :60]])
    for scales in ((1.0,), (1.0, 0.5)):
        options = InferenceOptions(tile=40, overlap=10, tile_max_dets=9, scales=scales)
        found = predict(model, batch, options)
        assert len(found[0]) == 2
        assert len(found[1]) > 2
        assert not recwarn.list
        one = predict(model, batch, dataclasses.replace(options, tile_max_dets=1))
        assert [len(instances) for instances in one] == [2, 1]
        recwarn.clear()


@pytest.mark.parametrize(
    "options",
    [None, InferenceOptions(flip=True, flip_vertical=True), InferenceOptions(tile=40, flip=True)],
    ids=["whole", "views", "tiles"],
)
def test_boxes_end_where_the_image_does(options):
    """Rounding brings boxes out of the frame by 1e-4 pixels; those inside stay as they are."""

    class Rounding(ColourSegmentor):
        def predict(self, batch):
            found = super().predict(batch)
            edge = torch.tensor([-1e-4, -1e-4, 1e-4, 1e-4])
            return [dataclasses.replace(one, boxes=one.boxes + edge) for one in found]

    full = paint((80, 96), [("bar", 0, 0, 96, 80, 0), ("disc", 30, 30, 12, 1)])
    (found,) = predict(Rounding(), as_batch([full, torch.zeros(3, 8, 8)]), options)[:1]
    assert found.boxes[0].tolist() == [0, 0, 96, 80]
    assert found.boxes[1].tolist() == pytest.approx([18, 18, 42, 42], abs=1e-3)
    assert found.boxes[1, 0] < 18


def test_concave_objects_are_joined_although_a_tile_sees_their_legs_apart():
    comb = paint((60, 60), [("bar", 2, 40, 58, 50, 0)])
    for left in (4, 20, 36, 50):
        comb[0, 4:45, left : left + 5] = 1 / 250
    batch = as_batch([comb])
    (found,) = tiled(batch, 36, 8)  # the upper tiles see two legs each, none as half of the comb
    assert_same(found, ColourSegmentor().predict(batch)[0])


def parts_of(rows, tiles, size, scores=None, labels=None):
    """Instances of each tile from masks in the frame of the image."""
    found = []
    for number, (tile, masks) in enumerate(zip(tiles, rows, strict=True)):
        (top, bottom), (left, right) = tile.rows[2:], tile.columns[2:]
        dense = np.array(masks, dtype=bool).reshape(-1, *size)[:, top:bottom, left:right]
        packed = RLEMasks.from_dense(dense, dense.shape[1:])
        count = len(packed)
        found.append(
            Instances(
                boxes=torch.from_numpy(packed.boxes()),
                scores=torch.tensor(scores[number] if scores else [0.5] * count),
                labels=torch.tensor(labels[number] if labels else [0] * count),
                size=dense.shape[1:],
                masks=packed,
                quality=torch.tensor(scores[number] if scores else [0.5] * count) / 2,
            )
        )
    return found


def strip(size, *boxes):
    masks = np.zeros((len(boxes), *size), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


SIZE = (20, 50)
TWO = [Tile(Span(0, 20, 0, 20), Span(s, s + 30, s, s + 30)) for s in (0, 20)]  # share 20 to 30


def merged(left, right, iou=0.5, **more):
    return merge_tiles(parts_of([left, right], TWO, SIZE, **more), TWO, SIZE, iou)


def test_agreement_is_measured_in_the_strip_alone():
    """8 x 5 and 8 x 2 pixels in the strip, 4 x 2 of them the same: 8 of 48.

    Neither reaches an inner border. What is left of 20 and right of 30 plays no part.
    """
    left, right = strip(SIZE, (2, 0, 25, 8)), strip(SIZE, (23, 4, 48, 12))
    right[:, :, 25:30] = False
    assert len(merged(left, right, 0.17)) == 2
    (one,) = merged(left, right, 1 / 6, scores=[[0.5], [0.4]]).masks.decode()
    beyond = right[0].copy()
    beyond[:, :30] = False  # where the tile of the better one looks, its own mask counts
    assert np.array_equal(one, left[0] | beyond)


def test_near_duplicates_of_a_tile_neither_swell_an_object_nor_take_its_partner():
    """Each tile has an object well and badly; the good ones are one, and so are the bad ones.

    That the good one of each is more like the bad one of the other does not matter.
    """
    left = strip(SIZE, (10, 4, 30, 12), (10, 3, 30, 12))
    right = strip(SIZE, (20, 3, 40, 12), (20, 4, 40, 12))
    found = merged(left, right, scores=[[0.9, 0.1], [0.8, 0.05]])
    assert found.scores.tolist() == pytest.approx([0.9, 0.1])
    assert found.masks.areas().tolist() == [20 * 8 + 10 * 9, 20 * 9 + 10 * 8]
    assert found.boxes.tolist() == [[10, 3, 40, 12], [10, 3, 40, 12]]


def test_an_object_that_two_tiles_see_whole_is_that_of_the_better_one():
    left, right = strip(SIZE, (21, 4, 28, 12)), strip(SIZE, (20, 3, 29, 13))
    found = merged(left, right, scores=[[0.7], [0.6]])
    assert found.boxes.tolist() == [[21, 4, 28, 12]]
    assert found.masks.areas().tolist() == [7 * 8]
    assert found.scores.tolist() == pytest.approx([0.7])


def test_weak_fragments_leave_strong_objects_alone():
    left, right = strip(SIZE, (10, 4, 30, 7)), strip(SIZE, (20, 0, 40, 12))
    apart = merged(left, right, scores=[[0.39], [0.8]])
    assert apart.masks.areas().tolist() == [20 * 12, 20 * 3]
    assert len(merged(left, right, scores=[[0.41], [0.8]])) == 1


def test_label_score_box_and_quality_of_a_merged_object():
    left, right = strip(SIZE, (2, 3, 30, 9), (0, 12, 4, 16)), strip(SIZE, (20, 3, 41, 9))
    found = merged(left, right, scores=[[0.6, 0.7], [0.9]], labels=[[1, 1], [1]])
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.quality.tolist() == pytest.approx([0.45, 0.35])
    assert found.boxes.tolist() == [[2, 3, 41, 9], [0, 12, 4, 16]]
    assert found.masks.areas().tolist() == [39 * 6, 16]


def test_the_best_predictions_own_box_counts():
    parts = parts_of([strip(SIZE, (2, 3, 30, 9)), strip(SIZE, (20, 3, 30, 9))], TWO, SIZE)
    loose = parts[0].boxes + torch.tensor([[-0.5, 0.75, 0.75, 2]])
    parts[0] = dataclasses.replace(parts[0], boxes=loose, scores=torch.tensor([0.9]))
    found = merge_tiles(parts, TWO, SIZE, 0.5)
    assert found.boxes.tolist() == [[1.5, 3.75, 30.75, 11]]


def test_other_classes_do_not_merge():
    left, right = strip(SIZE, (2, 3, 30, 9)), strip(SIZE, (20, 3, 41, 9))
    assert len(merged(left, right, labels=[[1], [2]])) == 2


def test_what_one_tile_alone_has_found_stays():
    left = strip(SIZE, (2, 3, 30, 9), (22, 12, 28, 16))
    assert merged(left, strip(SIZE)).boxes.tolist() == [[2, 3, 30, 9], [22, 12, 28, 16]]
    assert len(merged(strip(SIZE), strip(SIZE))) == 0


def test_a_fragment_that_is_covered_joins_what_covers_most_of_it():
    """A sliver with a poor mask at the border of the left tile: 2 of the 10 columns are seen."""
    left = strip(SIZE, (28, 4, 30, 7))
    right = strip(SIZE, (24, 0, 40, 6), (24, 6, 40, 10))
    found = merged(left, right)
    assert len(found) == 2
    assert sorted(found.masks.areas().tolist()) == [16 * 4, 16 * 6]
    # the same mask away from the border is an object that the other tile has missed
    assert len(merged(strip(SIZE, (22, 4, 24, 7)), strip(SIZE, (20, 0, 40, 10)))) == 2
    # and one of which the larger part is not covered stays as well
    assert len(merged(strip(SIZE, (25, 4, 30, 14)), strip(SIZE, (24, 0, 40, 8)))) == 2


def test_a_fragment_joins_only_what_covers_most_of_it():
    """In the strip, of its 10 rows the upper object covers 4 and the lower 6; both are enough."""
    left = strip(SIZE, (24, 4, 30, 14))
    left[0, 4:14, 10:15] = True
    found = merged(left, strip(SIZE, (24, 0, 40, 8), (24, 8, 40, 20)), 0.38)
    assert sorted(found.masks.areas().tolist()) == [16 * 8, 16 * 12 + 5 * 10]


def test_a_small_object_on_a_large_one_keeps_its_partner():
    big, small = (4, 0, 46, 20), (26, 8, 34, 12)
    left, right = strip(SIZE, big, small), strip(SIZE, big, small)
    left[:, :, 30:], right[:, :, :20] = False, False
    assert merged(left, right).masks.areas().tolist() == [42 * 20, 8 * 4]


def test_four_tiles_make_one_object_by_way_of_each_other():
    tiles = [
        Tile(Span(y, y + 20, y, y + 20), Span(x, x + 20, x, x + 20))
        for y in (0, 12)
        for x in (0, 12)
    ]
    whole = strip((32, 32), (4, 4, 28, 28))
    seen = []
    for tile in tiles:
        part = np.zeros_like(whole)
        window = (0, slice(*tile.rows[:2]), slice(*tile.columns[:2]))
        part[window] = whole[window]
        seen.append(part)
    found = merge_tiles(parts_of(seen, tiles, (32, 32)), tiles, (32, 32), 0.5)
    assert np.array_equal(found.masks.decode(), whole)


def test_masks_are_needed():
    with pytest.raises(ValueError, match="merged by masks and these predictions have none"):
        tiled(as_batch([IMAGE]), 32, 8, ColourSegmentor(masks=False))


def test_options_reach_the_tiles():
    model, batch = ColourSegmentor(), as_batch([IMAGE])
    options = InferenceOptions(tile=45, tile_batch=2)
    assert_same(predict(model, batch, options)[0], ColourSegmentor().predict(batch)[0])
    # a fifth of 45 is shared: 2 tiles over 80 rows, 3 over 96 columns
    assert model.shapes == [(2, 3, 45, 45)] * 3


def test_mask_stride_of_the_batch_does_not_matter():
    batch = as_batch([IMAGE])
    coarse = dataclasses.replace(
        batch, masks=torch.zeros(0, 20, 24, dtype=torch.bool), mask_stride=4
    )
    assert_same(tiled(coarse, 32, 8)[0], tiled(batch, 32, 8)[0])
