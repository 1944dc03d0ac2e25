"""YOLO lines that are right come back; lines that are not end in a fault and nothing else."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from formats.coco.store import encode_segmentation
from formats.yolo.contours import join, trace
from formats.yolo.labels import format_line, parse_labels
from formats.yolo.writer import outline
from structures.rle import encode, to_bytes

SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
WORDS = st.one_of(
    st.integers(-3, 9).map(str),
    st.floats(-0.2, 1.2).map(str),
    st.sampled_from(["nan", "inf", "-inf", "1e999", "x", "0,5", "--", "1_0", "٣", "\x00"]),
)
# Tenths of a pixel are where the rasteriser of the COCO tools has its steps.
POINTS = st.tuples(st.integers(-20, 140), st.integers(-20, 140)).map(
    lambda p: (p[0] / 10, p[1] / 10)
)
POLYGONS = st.lists(POINTS, min_size=3, max_size=7).map(lambda p: [v for xy in p for v in xy])


@given(st.integers(0, 9), SIZES, st.data())
def test_polygons_come_back_to_a_millionth_of_a_pixel(category, size, data):
    height, width = size
    point = st.tuples(st.floats(0, width), st.floats(0, height))
    polygon = [v for xy in data.draw(st.lists(point, min_size=3, max_size=6)) for v in xy]
    assume(min(np.ptp(polygon[::2]), np.ptp(polygon[1::2])) > 1e-3)  # else it is on a line
    (line,), faults = parse_labels(format_line(category, polygon, size), range(10), size)
    assert faults == []
    assert (line.number, line.category) == (1, category)
    np.testing.assert_allclose(line.polygon, polygon, rtol=0, atol=1e-6)
    # written again, the text stays as it is
    again = format_line(category, line.polygon, size)
    (twice,), _ = parse_labels(again, range(10), size)
    assert twice.polygon == line.polygon


@given(st.lists(st.lists(WORDS, max_size=10).map(" ".join), max_size=5), st.booleans())
def test_any_text_gives_lines_or_faults(texts, boxes):
    size = (20, 10)
    lines, faults = parse_labels("\n".join(texts), {0: "a", 3: "b"}, size, boxes_as_masks=boxes)
    numbers = [line.number for line in lines] + [fault.number for fault in faults]
    assert sorted(numbers) == [n for n, text in enumerate(texts, 1) if text.split()]
    assert all(fault.reason and fault.remedy for fault in faults)
    for line in lines:
        assert line.category in (0, 3)
        assert len(line.polygon) >= 6
        assert len(line.polygon) % 2 == 0
        assert all(0 <= x <= 10 for x in line.polygon[::2])
        assert all(0 <= y <= 20 for y in line.polygon[1::2])


@given(MASKS)
def test_traced_masks_rasterise_to_themselves(mask):
    if not mask.any():
        assert trace(mask) == []
        return
    size = mask.shape
    path = outline({"size": list(size), "counts": to_bytes(encode(mask))}, size)
    (line,), _ = parse_labels(format_line(0, path.polygon, size), (0,), size)
    assert encode_segmentation([line.polygon], *size) == to_bytes(encode(mask))
    borders = trace(mask)
    corners = sum(map(len, borders))
    # every border is a bridge to the others but the first: two points more
    assert len(join(borders)) == corners + 2 * (len(borders) - 1)


@given(st.lists(POLYGONS, min_size=1, max_size=3), st.integers(1, 14), st.integers(1, 14))
def test_polygons_of_any_shape_keep_their_mask(parts, height, width):
    """Crossing, touching, overlapping, degenerate, beyond the border, on the rasteriser's steps."""
    size = (height, width)
    target = encode_segmentation(parts, *size)
    path = outline(parts, size)
    if path is None:
        assert coco.area({"size": list(size), "counts": target}) == 0
        return
    (line,), faults = parse_labels(format_line(0, path.polygon, size), (0,), size)
    assert faults == []
    assert encode_segmentation([line.polygon], *size) == target
