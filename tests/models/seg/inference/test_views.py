"""Views of an image and their fusion."""

import dataclasses

import numpy as np
import pytest
import torch

from models.seg.inference import views
from models.seg.inference.predict import InferenceOptions, predict
from models.seg.inference.views import View, fuse_views, restored, transformed
from structures import Instances, RLEMasks
from tests.support.colour_segmentor import ColourSegmentor, as_batch, assert_same, paint

SCENE = [
    ("disc", 20, 20, 9, 0),
    ("disc", 52, 14, 7, 1),
    ("disc", 66, 14, 7, 1),
    ("bar", 3, 50, 74, 57, 2),
    ("bar", 60, 40, 61, 41, 1),
]
IMAGE = paint((64, 80), SCENE)
SMALL = paint((40, 31), [("disc", 10, 12, 6, 0), ("bar", 14, 20, 30, 38, 0)])


def found_of(masks, scores, labels=None, boxes=None, quality=None):
    packed = RLEMasks.from_dense(np.asarray(masks, dtype=bool), np.shape(masks)[1:])
    return Instances(
        boxes=torch.from_numpy(packed.boxes()) if boxes is None else torch.tensor(boxes),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels or [0] * len(packed)),
        size=packed.size,
        masks=packed,
        quality=None if quality is None else torch.tensor(quality),
    )


def squares(*boxes, size=(20, 20)):
    masks = np.zeros((len(boxes), *size), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


@pytest.mark.parametrize(
    "options",
    [
        InferenceOptions(flip=True),
        InferenceOptions(flip_vertical=True),
        InferenceOptions(flip=True, flip_vertical=True),
        InferenceOptions(flip=True, tile=40, overlap=9),
        InferenceOptions(flip=True, flip_vertical=True, tile=31, tile_batch=2),
    ],
    ids=lambda options: f"{options.flip}-{options.flip_vertical}-{options.tile}",
)
@pytest.mark.parametrize("quality", [False, True])
def test_flips_change_nothing_for_a_model_to_which_they_mean_nothing(options, quality):
    batch = as_batch([IMAGE, SMALL, torch.zeros(3, 30, 50)], [(64, 80), (80, 62), (30, 50)])
    whole = ColourSegmentor(quality=quality).predict(batch)
    model = ColourSegmentor(quality=quality and options.tile is None)
    found = predict(model, batch, options)
    assert [len(one) for one in found] == [len(SCENE), 2, 0]
    for one, expected in zip(found, whole, strict=True):
        assert_same(one, expected)
        if model.with_quality:
            assert torch.equal(one.quality, expected.quality)


def test_scales_find_the_same_objects():
    batch = as_batch([IMAGE, SMALL])
    model = ColourSegmentor()
    found = predict(model, batch, InferenceOptions(scales=(1.0, 2.0, 3.0)))
    # averaging at the borders of enlarged colours makes other colours; all others are there
    whole = ColourSegmentor().predict(batch)
    assert [tuple(s) for s in model.batches[1].sizes.tolist()] == [(128, 160), (80, 62)]
    assert torch.equal(model.batches[2].original_sizes, batch.original_sizes)
    for one, expected in zip(found, whole, strict=True):
        for mask, label in zip(expected.masks.decode(), expected.labels, strict=True):
            ious = [
                (mask & other).sum() / (mask | other).sum() * (label == there)
                for other, there in zip(one.masks.decode(), one.labels, strict=True)
            ]
            if mask.sum() > 1:
                assert max(ious) > 0.8


def test_views_in_order():
    options = InferenceOptions(scales=(1.0, 0.5), flip=True, flip_vertical=True)
    assert options.views()[:4] == [
        View(), View(1.0, True, False), View(1.0, False, True), View(1.0, True, True)
    ]  # fmt: skip
    assert [view.scale for view in options.views()] == [1.0] * 4 + [0.5] * 4
    assert InferenceOptions().views() == [View()]


def test_only_the_valid_area_is_mirrored_and_resized():
    random = torch.rand(2, 3, 12, 16)
    batch = dataclasses.replace(
        as_batch([random[0], random[1]]), sizes=torch.tensor([[12, 16], [5, 7]])
    )
    mirrored = transformed(batch, View(1.0, True, True))
    assert torch.equal(mirrored.images[1, :, :5, :7], random[1, :, :5, :7].flip(1, 2))
    assert mirrored.images[1, :, 5:].abs().sum() == 0
    assert torch.equal(mirrored.images[0], random[0].flip(1, 2))
    half = transformed(batch, View(0.5))
    assert half.sizes.tolist() == [[6, 8], [3, 4]]  # 2.5 and 3.5 round up
    assert half.images.shape == (2, 3, 6, 8)
    alone = transformed(as_batch([random[1, :, :5, :7]]), View(0.5))
    assert torch.equal(half.images[1, :, :3, :4], alone.images[0])
    same = as_batch([torch.full((3, 5, 7), 0.25)])
    torch.testing.assert_close(
        transformed(same, View(3.0)).images, torch.full((1, 3, 15, 21), 0.25)
    )
    assert transformed(batch, View()) is batch
    assert transformed(batch, View(0.01)).sizes.tolist() == [[1, 1], [1, 1]]


def test_shrinking_averages():
    stripes = torch.zeros(3, 16, 64)
    stripes[:, :, ::4] = 1
    quarter = transformed(as_batch([stripes]), View(0.25)).images
    assert (quarter[..., 1:-1] - 0.25).abs().max() < 0.05


def test_dtype_of_images_stays():
    batch = as_batch([IMAGE])
    half = dataclasses.replace(batch, images=batch.images.bfloat16())
    assert transformed(half, View(0.5, True)).images.dtype == torch.bfloat16


def test_one_view_is_brought_back_and_not_fused():
    batch = as_batch([IMAGE])
    found = predict(ColourSegmentor(), batch, InferenceOptions(scales=(2.0,), tile=500))[0]
    expected = ColourSegmentor().predict(transformed(batch, View(2.0)))[0]
    assert_same(found, expected)


def test_targets_go_with_the_views(scene):
    batch, _, _ = scene([(42, 50), (44, 60)])
    view = transformed(batch, View(1.0, True))
    assert len(view.boxes) == len(view.labels) == len(view.masks) == len(view.crowd) == 0
    assert view.counts.tolist() == [0, 0]
    assert torch.equal(view.index, batch.index)


def test_masks_and_boxes_come_back():
    masks = squares((1, 2, 4, 9), size=(10, 20))
    one = found_of(masks, [0.5], boxes=[[1.5, 2.0, 4.0, 9.25]])
    back = restored(one, View(1.0, True, False))
    assert np.array_equal(back.masks.decode(), masks[:, :, ::-1])
    assert back.boxes.tolist() == [[16.0, 2.0, 18.5, 9.25]]
    back = restored(one, View(1.0, False, True))
    assert np.array_equal(back.masks.decode(), masks[:, ::-1])
    assert back.boxes.tolist() == [[1.5, 0.75, 4.0, 8.0]]
    nothing = dataclasses.replace(one, masks=None)
    assert restored(nothing, View(2.0, True, True)).masks is None


def test_scores_boxes_and_quality_by_hand():
    """Three views; the third has missed the object: (.9 + .3) / 3; weights 3 to 1 elsewhere."""
    first = found_of(squares((0, 0, 8, 8)), [0.9], boxes=[[0.0, 0, 8, 8]], quality=[0.8])
    second = found_of(squares((0, 0, 8, 9)), [0.3], boxes=[[2.0, 0, 8, 12]], quality=[0.4])
    third = found_of(squares(), [], quality=[])
    fused = fuse_views([second, third, first], 0.55, 10)
    assert fused.scores.tolist() == pytest.approx([0.4])
    torch.testing.assert_close(fused.boxes, torch.tensor([[0.5, 0, 8, 9]]), atol=1e-5, rtol=0)
    assert fused.quality.tolist() == pytest.approx([0.7], abs=1e-5)
    assert fused.masks.areas().tolist() == [64]  # the row that only the weaker has is out


def test_pixels_need_half_of_the_score():
    masks = squares((0, 0, 10, 10), (0, 0, 10, 12), (1, 0, 10, 12))
    fused = fuse_views(
        [found_of(masks[k : k + 1], [s]) for k, s in enumerate((0.5, 0.3, 0.2))], 0.5, 9
    )
    # rows 10 and 11 have .3 + .2 of 1 where columns allow, exactly half; column 0 there .3
    expected = squares((0, 0, 10, 10)) | squares((1, 0, 10, 12))
    assert np.array_equal(fused.masks.decode(), expected)


def test_classes_views_and_thresholds_keep_objects_apart():
    same = squares((0, 0, 10, 10))
    one = found_of(same, [0.8])
    assert len(fuse_views([one, found_of(same, [0.8], labels=[3])], 0.55, 9)) == 2
    two = found_of(np.concatenate((same, same)), [0.8, 0.8])  # both of one view: two objects
    fused = fuse_views([two, two], 0.55, 9)
    assert fused.scores.tolist() == pytest.approx([0.8, 0.8])
    shifted = found_of(squares((0, 0, 10, 6)), [0.4])  # IoU .6
    assert len(fuse_views([one, shifted], 0.6, 9)) == 1
    assert len(fuse_views([one, shifted], 0.61, 9)) == 2


def test_the_closest_of_two_objects_is_joined():
    near, far = (0, 0, 10, 10), (0, 0, 10, 7)
    first = found_of(squares(far, near), [0.9, 0.8])
    second = found_of(squares((0, 0, 10, 9)), [0.5])  # .9 of near, 7/9 of far
    fused = fuse_views([first, second], 0.55, 9)
    assert fused.scores.tolist() == pytest.approx([0.65, 0.45])
    assert fused.masks.areas().tolist() == [100, 70]


def test_predictions_without_a_pixel_are_compared_by_their_boxes():
    nothing = np.zeros((2, 20, 20), dtype=bool)
    boxes = [[1.0, 1, 1.4, 9], [5.0, 5, 9, 5.4]]
    one = found_of(nothing, [0.6, 0.5], boxes=boxes)
    fused = fuse_views([one, one], 0.55, 9)
    assert fused.scores.tolist() == pytest.approx([0.6, 0.5])
    torch.testing.assert_close(fused.boxes, torch.tensor(boxes))
    solid = found_of(squares((1, 1, 2, 9)), [0.6])
    hollow = found_of(nothing[:1], [0.7], boxes=[[1.0, 1, 2, 9]])
    assert len(fuse_views([hollow, solid], 0.55, 9)) == 2


def test_the_cap_is_that_of_the_image():
    one = found_of(squares((0, 0, 4, 4), (6, 6, 12, 12), (14, 0, 18, 4)), [0.5, 0.9, 0.7])
    fused = fuse_views([one, one], 0.55, 2)
    assert fused.scores.tolist() == pytest.approx([0.9, 0.7])
    assert fused.masks.areas().tolist() == [36, 16]
    assert len(fuse_views([one, one], 0.55, None)) == 3


def test_views_too_large_to_be_meant_are_refused(monkeypatch):
    monkeypatch.setattr(views, "LARGEST_FRAME", 64 * 80 * 4)
    batch = as_batch([SMALL, IMAGE])
    assert transformed(batch, View(2.0)).sizes.tolist() == [[80, 62], [128, 160]]
    with pytest.raises(ValueError, match=r"image 1, 64 px .*view of 129 x 161 at scale 2.01"):
        transformed(batch, View(2.01))
    unnamed = dataclasses.replace(batch, image_ids=())
    with pytest.raises(ValueError, match="image 6, 64 px high and 80 px wide"):
        transformed(unnamed, View(2.01))


def test_masks_are_needed_to_fuse():
    with pytest.raises(ValueError, match="fused by masks and these predictions have none"):
        predict(ColourSegmentor(masks=False), as_batch([IMAGE]), InferenceOptions(flip=True))


def test_without_options_the_model_alone_decides():
    model, batch = ColourSegmentor(masks=False), as_batch([IMAGE])
    predict(model, batch)
    predict(model, batch, InferenceOptions())
    assert model.batches == [batch, batch]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 1}, "tile must be at least 2"),
        ({"overlap": 4}, "needs tiles"),
        ({"tile": 10, "overlap": 0}, "from 1 to half"),
        ({"tile": 10, "overlap": 6}, "from 1 to half"),
        ({"tile_batch": 0}, "tile_batch"),
        ({"tile_max_dets": 5}, "tile_max_dets of 5 needs tiles"),
        ({"tile": 10, "tile_max_dets": 0}, "tile_max_dets must be at least 1"),
        ({"merge_iou": 0.0}, "merge_iou"),
        ({"merge_iou": 1.1}, "merge_iou"),
        ({"fuse_iou": 0.4}, "fuse_iou"),
        ({"fuse_iou": 1.1}, "fuse_iou"),
        ({"scales": ()}, "scales must be one or more different"),
        ({"scales": (1.0, 1.0)}, "scales must be one or more different"),
        ({"scales": (0.0,)}, "scales must be one or more different"),
        ({"scales": (17.0,)}, "scales must be one or more different"),
        ({"scales": (float("nan"),)}, "scales must be one or more different"),
    ],
)
def test_options_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        InferenceOptions(**arguments)
