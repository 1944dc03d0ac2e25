"""Boxes from bins of side distances."""

import math

import pytest
import torch

from models.seg.yolo.output import decode_boxes, expected_distances


def test_decoding_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 64, generator=generator, dtype=torch.float64) * 4
    points = torch.rand(5, 2, generator=generator, dtype=torch.float64) * 100
    strides = torch.tensor([8.0, 8.0, 16.0, 16.0, 32.0], dtype=torch.float64)
    boxes = decode_boxes(logits, points, strides)
    for image in range(2):
        for anchor in range(5):
            distances = []
            for side in range(4):
                bins = logits[image, anchor, 16 * side : 16 * side + 16].tolist()
                total = sum(math.exp(z) for z in bins)
                distances.append(sum(k * math.exp(z) for k, z in enumerate(bins)) / total)
            (x, y), s = points[anchor].tolist(), float(strides[anchor])
            left, top, right, bottom = distances
            expected = [x - left * s, y - top * s, x + right * s, y + bottom * s]
            assert boxes[image, anchor].tolist() == pytest.approx(expected, rel=1e-12)


def test_a_sure_bin_is_its_distance():
    logits = torch.full((4, 16), -100.0)
    for side, bin_number in enumerate((0, 3, 15, 1)):
        logits[side, bin_number] = 100.0
    box = decode_boxes(logits.view(1, 64), torch.tensor([[20.0, 28.0]]), torch.tensor([8.0]))
    assert box.tolist() == [[20.0, 4.0, 140.0, 36.0]]


def test_half_precision_is_decoded_in_float32():
    logits = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).half()
    with torch.autocast("cpu", torch.bfloat16):
        low = expected_distances(logits)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, expected_distances(logits.double()).float())


def test_no_anchor_and_gradient():
    assert decode_boxes(torch.zeros(2, 0, 64), torch.zeros(0, 2), torch.zeros(0)).shape == (2, 0, 4)
    logits = torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    points, strides = torch.rand(2, 2).double(), torch.tensor([8.0, 16.0]).double()
    assert torch.autograd.gradcheck(lambda z: decode_boxes(z, points, strides), (logits,))


@pytest.mark.parametrize("width", [0, 63])
def test_a_width_that_is_not_four_sides(width):
    with pytest.raises(ValueError, match=rf"4 x bins values per anchor, got {width}"):
        expected_distances(torch.zeros(2, width))
