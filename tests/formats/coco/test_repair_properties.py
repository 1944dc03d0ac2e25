"""Whatever the parts of an object: what is repaired can be used, and no valid part is lost."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from formats.coco.document import check_coco
from formats.coco.shapes import polygon_reason

HEIGHT, WIDTH = 20, 30
FILE = Path("instances.json")
IMAGE = {"id": 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH}

inside = st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT))
anywhere = st.tuples(st.floats(-50, 80), st.floats(-50, 80))
odd = st.sampled_from(
    [[], [1.0], [3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7], [1, 1, 9, 1, 9, float("nan")], "text", None, 3,
     [[1, 1], [9, 1], [9, 9]], [1, 1, 9, None, 9, 9]]
)  # fmt: skip


def flat(points):
    return [value for point in points for value in point]


parts = st.one_of(
    st.lists(inside, min_size=3, max_size=6).map(flat),
    st.lists(anywhere, min_size=3, max_size=6).map(flat),
    odd,
)
boxes = st.one_of(
    st.just([1, 1, 5, 5]), st.lists(st.floats(-9, 40), min_size=4, max_size=4), st.none()
)


def union(polygons):
    if not polygons:
        return np.zeros((HEIGHT, WIDTH), bool)
    return coco_mask.decode(coco_mask.frPyObjects(polygons, HEIGHT, WIDTH)).any(axis=2)


def checked(annotation, mend):
    data = {"images": [IMAGE], "categories": [{"id": 3, "name": "cell"}]}
    return check_coco(FILE, data | {"annotations": [annotation]}, mend=mend)


@given(st.lists(parts, min_size=1, max_size=5), boxes)
def test_what_is_repaired_is_accepted_and_no_valid_part_is_lost(polygons, box):
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": polygons, "area": 4}
    findings = checked(annotation | {"bbox": box}, mend=True)
    kept = findings.data["annotations"]
    valid = [part for part in polygons if not polygon_reason([part], HEIGHT, WIDTH)]
    if not kept:
        # lost as a whole only where no valid part covers an area
        spans = [np.ptp(np.clip(np.reshape(p, (-1, 2)), 0, (WIDTH, HEIGHT)), axis=0) for p in valid]
        assert not valid or min(np.max(spans, axis=0)) == 0 or box_has_no_area(valid)
        return
    assert all(problem.repaired for problem in findings.problems)
    assert checked(kept[0], mend=False).problems == []  # mended once and for all
    mended = kept[0]["segmentation"]
    assert [part for part in mended if part in valid] == valid
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        content = {"images": [IMAGE], "annotations": kept, "categories": [{"id": 3, "name": "c"}]}
        coco.dataset = json.loads(json.dumps(content))
        coco.createIndex()
    mask = coco.annToMask(coco.anns[1]).astype(bool)
    assert mask.shape == (HEIGHT, WIDTH)
    assert (mask | ~union(valid)).all()
    if findings.problems:
        x, y, width, height = kept[0]["bbox"]
        assert width > 0 and height > 0 and x >= 0 and y >= 0
        assert x + width <= WIDTH + 1e-6 and y + height <= HEIGHT + 1e-6


def box_has_no_area(polygons):
    """Return whether the box around all polygons, cut at the image, has no area."""
    points = np.concatenate([np.reshape(part, (-1, 2)) for part in polygons])
    return min(np.ptp(np.clip(points, 0, (WIDTH, HEIGHT)), axis=0)) == 0
