"""Box arithmetic and the box code of the heads, on boxes that hypothesis makes."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image

from models.ops.boxes.boxes import covered_fraction, fpn_levels, rescale_boxes

COORDINATES = st.integers(-40, 200).map(lambda k: k / 4)
SIDES = st.integers(4, 200).map(lambda k: k / 4)  # ratios below 1000 / 16, where the code ends
BOX = st.tuples(COORDINATES, COORDINATES, SIDES, SIDES).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
HEADS = st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])


def tensor(boxes):
    return torch.tensor(boxes, dtype=torch.float64).view(-1, 4)


@given(st.lists(BOX, min_size=1, max_size=5), BOX, HEADS)
def test_box_code_comes_back(boxes, anchor, weights):
    """The code that the proposal and the box heads learn, with either's weights."""
    coder = BoxCoder(weights=weights)
    truth, anchors = tensor(boxes), tensor([anchor] * len(boxes))
    code = coder.encode_single(truth, anchors)
    torch.testing.assert_close(coder.decode_single(code, anchors).view(-1, 4), truth)
    # by hand: centre shift over the anchor's side, logarithm of the ratio of sides
    x1, y1, x2, y2 = anchor
    for row, (a1, b1, a2, b2) in zip(code.tolist(), boxes, strict=True):
        expected = (
            ((a1 + a2) - (x1 + x2)) / 2 / (x2 - x1) * weights[0],
            ((b1 + b2) - (y1 + y2)) / 2 / (y2 - y1) * weights[1],
            math.log((a2 - a1) / (x2 - x1)) * weights[2],
            math.log((b2 - b1) / (y2 - y1)) * weights[3],
        )
        torch.testing.assert_close(torch.tensor(row), torch.tensor(expected), rtol=1e-5, atol=1e-5)


@given(st.lists(BOX, max_size=5), st.integers(1, 60), st.integers(1, 60))
def test_clipped_boxes_lie_in_the_image_and_stay_clipped(boxes, height, width):
    clipped = clip_boxes_to_image(tensor(boxes), (height, width))
    for (x1, y1, x2, y2), found in zip(boxes, clipped.tolist(), strict=True):
        assert found == [
            min(max(x1, 0), width),
            min(max(y1, 0), height),
            min(max(x2, 0), width),
            min(max(y2, 0), height),
        ]
    assert torch.equal(clip_boxes_to_image(clipped, (height, width)), clipped)


@given(st.lists(BOX, max_size=5), st.lists(BOX, max_size=4))
def test_covered_fraction(boxes, regions):
    found = covered_fraction(tensor(boxes), tensor(regions)).tolist()
    for box, fraction in zip(boxes, found, strict=True):
        best = 0.0
        for region in regions:
            width = min(box[2], region[2]) - max(box[0], region[0])
            height = min(box[3], region[3]) - max(box[1], region[1])
            best = max(best, max(width, 0) * max(height, 0))
        assert math.isclose(fraction, best / ((box[2] - box[0]) * (box[3] - box[1])), abs_tol=1e-12)


@given(
    st.lists(BOX, max_size=4),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
)
def test_rescaling_and_back(boxes, old, new):
    moved = rescale_boxes(tensor(boxes), torch.tensor(old), torch.tensor(new))
    for (x1, y1, x2, y2), row in zip(boxes, moved.tolist(), strict=True):
        y, x = new[0] / old[0], new[1] / old[1]
        torch.testing.assert_close(
            torch.tensor(row), torch.tensor((x1 * x, y1 * y, x2 * x, y2 * y))
        )
    back = rescale_boxes(moved, torch.tensor(new), torch.tensor(old))
    torch.testing.assert_close(back, tensor(boxes))


@given(st.integers(1, 4096), st.integers(1, 3), st.integers(0, 3))
def test_levels_are_halved_at_octaves(side, first, more):
    """Level k takes sides from 224 x 2^(k - 4) to below twice that."""
    boxes = torch.tensor([[0.0, 0.0, side, side]])
    level = int(fpn_levels(boxes, first, first + more)) + first
    low, high = 224 * 2.0 ** (level - 4), 224 * 2.0 ** (level - 3)
    assert side * (1 + 1e-6) >= low or level == first
    assert side < high or level == first + more
