"""Predictions of the one-stage network: choice, geometry, masks, independence, both protocols."""

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from models.backbones.csp import Scale
from models.ops.masks.prototype_paste import paste_prototypes
from models.seg.protocol import SegModel, TimedSegModel
from models.seg.yolo import YOLOSeg
from models.seg.yolo.head import anchor_points
from models.seg.yolo.output import YOLOOutput, decode_boxes
from structures import SegBatch

TINY = Scale(depth=0.33, width=0.0625, max_channels=256)
SIZES = [(90, 70), (64, 100)]


def tiny(num_classes=3, lively=True, **options):
    """A network whose scores spread around one half and whose boxes differ."""
    torch.manual_seed(0)
    model = YOLOSeg(TINY, num_classes, norm="gn", **options)
    if lively:
        with torch.no_grad():
            for branch in model.head.classes:
                branch[-1].weight.mul_(20)
                branch[-1].bias.zero_()
            for branch in (*model.head.box, *model.head.coefficients):
                branch[-1].weight.mul_(10)
    return model


def made_by_hand(frame, images=1, classes=2, prototypes=1):
    """Outputs without any detection: logits of -20, all boxes of two cells to each side."""
    height, width = frame
    sizes = [(height // s, width // s) for s in (8, 16, 32)]
    points, strides = anchor_points(sizes, torch.zeros(1))
    boxes = torch.full((images, len(points), 4, 16), -1e4)
    boxes[..., 2] = 0
    return YOLOOutput(
        class_logits=torch.full((images, len(points), classes), -20.0),
        box_logits=boxes.flatten(2),
        coefficients=torch.zeros(images, len(points), prototypes),
        prototypes=torch.zeros(images, prototypes, height // 4, width // 4),
        points=points,
        strides=strides,
    )


def images_of(sizes, originals, frame):
    count = len(sizes)
    return SegBatch(
        images=torch.zeros(count, 3, *frame),
        sizes=torch.tensor(sizes),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        masks=torch.zeros(0, *frame, dtype=torch.bool),
        counts=torch.zeros(count, dtype=torch.int64),
        crowd=torch.zeros(0, dtype=torch.bool),
        index=torch.arange(count),
        original_sizes=torch.tensor(originals),
    )


def assert_same(one, other):
    assert len(one) == len(other)
    assert one.size == other.size
    for field in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(one, field), getattr(other, field)), field
    assert list(map(list, one.masks)) == list(map(list, other.masks))


def by_loops(output, batch, image, score_thresh, nms_thresh, max_dets):
    """Return (boxes, scores, labels, anchors) of one image in its padded frame."""
    scores = output.class_logits[image].sigmoid()
    height, width = batch.sizes[image].tolist()
    boxes = decode_boxes(output.box_logits[image], output.points, output.strides)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    found = []
    for label in range(scores.shape[1]):
        area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        anchors = ((scores[:, label] > score_thresh) & area).nonzero().flatten()
        kept = anchors[nms(boxes[anchors], scores[anchors, label], nms_thresh)].tolist()
        found += [(-float(scores[a, label]), a, label) for a in kept]
    found = sorted(found)[:max_dets]
    anchors, labels = torch.tensor([f[1] for f in found]), torch.tensor([f[2] for f in found])
    return boxes[anchors], scores[anchors, labels], labels, anchors


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("crop", ["after", "before"])
def test_as_loops_over_images_and_classes(scene, crop, classes):
    batch, *_ = scene(SIZES)
    batch = dataclasses.replace(batch, original_sizes=torch.tensor([(181, 141), (32, 49)]))
    options = {"score_thresh": 0.4, "nms_thresh": 0.6, "max_dets": 20}
    model = tiny(classes, mask_crop=crop, **options).eval()
    found = model.predict(batch)
    output = model.network_outputs(batch)
    assert output.prototypes.shape[-2:] == (24, 32)
    for number, one in enumerate(found):
        boxes, scores, labels, anchors = by_loops(output, batch, number, *options.values())
        assert torch.equal(one.labels, labels)
        torch.testing.assert_close(one.scores, scores, rtol=1e-6, atol=0)
        (height, width), original = batch.sizes[number].tolist(), one.size
        ratio = torch.tensor([original[1] / width, original[0] / height]).repeat(2)
        torch.testing.assert_close(one.boxes, boxes * ratio, rtol=1e-6, atol=1e-5)
        masks = paste_prototypes(
            output.prototypes[number],
            output.coefficients[number][anchors],
            one.boxes,
            (height, width),
            original,
            crop=crop,
        )
        assert list(map(list, one.masks)) == list(map(list, masks))
        assert (masks.areas() > 0).sum() > 5
    assert found[0].size == (181, 141)
    assert max(map(len, found)) == 20


def test_a_box_and_a_mask_that_are_known():
    """Network 50 x 75 in a frame of 64 x 96, file 100 x 300: rows x 2, columns x 4."""
    output = made_by_hand((64, 96))
    anchor = 2 * 12 + 4  # third row, fifth column of stride 8: its centre is (36, 20)
    output.class_logits[0, anchor, 1] = 2.0
    output.coefficients[0, anchor] = 3.0
    output.prototypes[:] = -1.0
    output.prototypes[..., :8] = 1.0  # left of 32, where the interpolation is 0
    model = tiny(2)
    (one,) = model.instances(output, images_of([(50, 75)], [(100, 300)], (64, 96)))
    assert one.labels.tolist() == [1]
    torch.testing.assert_close(one.scores, torch.tensor([2.0]).sigmoid())
    torch.testing.assert_close(one.boxes, torch.tensor([[20.0 * 4, 4 * 2, 52 * 4, 36 * 2]]))
    expected = np.zeros((100, 300), dtype=bool)
    expected[8:72, 80:128] = True
    np.testing.assert_array_equal(one.masks.decode()[0], expected)


def test_boxes_end_where_the_image_does():
    output = made_by_hand((64, 96))
    corner, beyond = 6 * 12 + 9, 7 * 12 + 11  # centres (76, 52) and (92, 60)
    output.class_logits[0, [corner, beyond], 0] = 2.0
    output.coefficients[:] = 1.0
    output.prototypes[:] = 1.0
    (one,) = tiny(2).instances(output, images_of([(50, 75)], [(50, 75)], (64, 96)))
    # the second, from (76, 44) on, has nothing of the image and is left out
    assert one.boxes.tolist() == [[60, 36, 75, 50]]
    assert one.masks.boxes().tolist() == [[60, 36, 75, 50]]


def test_a_detection_without_a_pixel_stays_with_an_empty_mask():
    output = made_by_hand((64, 64))
    output.class_logits[0, 9, 0] = 2.0
    output.coefficients[:] = output.prototypes[:] = 1.0
    (one,) = tiny(2).instances(output, images_of([(64, 64)], [(1, 64)], (64, 64)))
    torch.testing.assert_close(one.boxes, torch.tensor([[0.0, 0.0, 28.0, 28 / 64]]))
    assert one.masks.areas().tolist() == [0]


def test_a_place_may_have_several_classes_and_suppression_is_by_class():
    output = made_by_hand((64, 64))
    output.class_logits[0, 18] = torch.tensor([1.0, 2.0])
    output.class_logits[0, 19] = torch.tensor([0.0, 3.0])  # 8 pixels on: IoU 3 / 5
    batch = images_of([(64, 64)], [(64, 64)], (64, 64))
    (strict,) = tiny(2, nms_thresh=0.5).instances(output, batch)
    assert strict.labels.tolist() == [1, 0]
    torch.testing.assert_close(strict.scores, torch.tensor([3.0, 1.0]).sigmoid())
    (lax,) = tiny(2, nms_thresh=0.6001).instances(output, batch)
    assert lax.labels.tolist() == [1, 1, 0, 0]


def test_scores_must_exceed_the_threshold():
    output = made_by_hand((64, 64), classes=1)
    for anchor, logit in ((0, 0.0), (2, 1e-6), (4, 1.0), (6, -1.0)):
        output.class_logits[0, anchor] = logit
    batch = images_of([(64, 64)], [(64, 64)], (64, 64))
    for threshold, count in ((0.0, 84), (0.5, 2), (0.8, 0), (1.0, 0)):
        model = tiny(1, score_thresh=threshold, nms_thresh=1.0)
        assert len(model.instances(output, batch)[0]) == count


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threshold", [0.001, 0.25, 0.7, 0.9])
def test_no_value_of_low_precision_next_to_the_threshold_is_lost(dtype, threshold):
    near = torch.tensor(threshold).logit()
    logits = torch.arange(-84, 84) * 2.0**-10 * near.abs() + near
    output = made_by_hand((64, 64), images=2, classes=1)
    output.class_logits.copy_(logits.view(2, 84, 1))
    output = output._replace(class_logits=output.class_logits.to(dtype))
    batch = images_of([(64, 64)] * 2, [(64, 64)] * 2, (64, 64))
    found = tiny(1, score_thresh=threshold, nms_thresh=1.0).instances(output, batch)
    expected = (output.class_logits.float().sigmoid() > threshold).flatten(1).sum(dim=1)
    assert [len(one) for one in found] == expected.tolist()


def test_the_best_candidates_of_each_image_are_looked_at():
    output = made_by_hand((64, 64), images=2, classes=2)
    random = torch.Generator().manual_seed(0)
    output.class_logits[0] = torch.randn(84, 2, generator=random)
    output.class_logits[1, :3] = -4.0
    batch = images_of([(64, 64)] * 2, [(64, 64)] * 2, (64, 64))
    everything, few = (
        tiny(2, nms_thresh=1.0, pre_nms=n).instances(output, batch) for n in (30_000, 5)
    )
    assert [len(one) for one in everything] == [168, 6]
    assert [len(one) for one in few] == [5, 5]
    assert_same(few[0], everything[0].select(torch.arange(5)))
    assert few[1].boxes.tolist() == everything[1].boxes[:5].tolist()  # ties by anchor, then class


def test_no_detection_anywhere_and_none_in_one_image():
    output = made_by_hand((64, 96), images=3)
    batch = images_of([(64, 96)] * 3, [(9, 11), (20, 30), (7, 5)], (64, 96))
    model = tiny(2)
    assert [len(one) for one in model.instances(output, batch)] == [0, 0, 0]
    output.class_logits[1, 5] = 1.0
    found = model.instances(output, batch)
    assert [len(one) for one in found] == [0, 2, 0]
    assert [one.masks.size for one in found] == [(9, 11), (20, 30), (7, 5)]


def test_boxes_that_are_no_numbers_are_left_out():
    output = made_by_hand((64, 64))
    output.class_logits[0, [3, 30], 0] = 1.0
    output.box_logits[0, 3] = torch.nan
    (one,) = tiny(2).instances(output, images_of([(64, 64)], [(64, 64)], (64, 64)))
    assert len(one) == 1


def test_both_protocols_modes_and_parts(scene):
    batch, *_ = scene(SIZES)
    model = tiny(score_thresh=0.3, max_dets=20)
    assert isinstance(model, SegModel)
    assert isinstance(model, TimedSegModel)
    assert model.max_dets == 20
    trained, evaluated = model.train().predict(batch), model.eval().predict(batch)
    parts = model.instances(model.network_outputs(batch), batch)
    for one, two, three in zip(trained, evaluated, parts, strict=True):
        assert len(one) == 20
        assert not one.boxes.requires_grad
        assert_same(one, two)
        assert_same(one, three)


def test_each_part_alone_keeps_no_graph(scene):
    batch, *_ = scene(SIZES)
    model = tiny(score_thresh=0.3, max_dets=5)
    output = model.network_outputs(batch)
    assert not any(values.requires_grad for values in output)
    alive = YOLOOutput(*(values.clone().requires_grad_() for values in output[:4]), *output[4:])
    for one in model.instances(alive, batch):
        assert not one.boxes.requires_grad
        assert not one.scores.requires_grad


def test_predictions_do_not_depend_on_batch_mates(scene):
    batch, *_ = scene([*SIZES, (96, 128)])
    model = tiny(max_dets=30).eval()
    output = model.network_outputs(batch)
    together = model.instances(output, batch)
    for number, one in enumerate(together):
        part = slice(number, number + 1)
        alone = YOLOOutput(*(v[part] for v in output[:4]), *output[4:])
        assert_same(model.instances(alone, batch.image(number))[0], one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_outputs_are_read_in_float32(scene, dtype):
    batch, *_ = scene(SIZES)
    model = tiny(score_thresh=0.3, max_dets=30).eval()
    output = model.network_outputs(batch)
    low = YOLOOutput(*(v.to(dtype) for v in output[:4]), *output[4:])
    high = YOLOOutput(*(v.float() for v in low[:4]), *output[4:])
    with torch.autocast("cpu", torch.bfloat16):
        found = model.instances(low, batch)
    for one, other in zip(found, model.instances(high, batch), strict=True):
        assert one.boxes.dtype == one.scores.dtype == torch.float32
        assert_same(one, other)


def test_autocast_predicts_about_the_same(scene):
    batch, *_ = scene(SIZES)
    model = tiny(score_thresh=0.3, max_dets=30).eval()
    with torch.autocast("cpu", torch.bfloat16):
        low = model.predict(batch)
    for one, other in zip(low, model.predict(batch), strict=True):
        torch.testing.assert_close(one.scores[:5], other.scores[:5], rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_thresh": -0.1}, r"lie in \[0, 1\], got -0.1 and 0.7"),
        ({"nms_thresh": 1.1}, r"lie in \[0, 1\], got 0.001 and 1.1"),
        ({"max_dets": 0}, r"at least 1, got 0 and 30000"),
        ({"pre_nms": 0}, r"at least 1, got 300 and 0"),
        ({"mask_crop": "never"}, r"after or before, got 'never'"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        YOLOSeg(TINY, 1, **options)
