"""Results lists: sound ones have no problem and score, damaged ones end in problems only."""

import copy
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluation.seg.coco import evaluate_results
from formats.coco import result_checks
from formats.coco.result_checks import find_result_problems
from formats.coco.results import load_results
from structures import DataProblems
from structures.rle import encode, from_bytes, to_bytes

FILE = Path("results.json")
SIZES = {3: (4, 6), 8: (5, 5)}
TRUTH = {
    "images": [{"id": i, "height": h, "width": w} for i, (h, w) in SIZES.items()],
    "categories": [{"id": c, "name": f"class {c}"} for c in (0, 7)],
    "annotations": [
        {
            "id": 1,
            "image_id": 3,
            "category_id": 7,
            "iscrowd": 0,
            "area": 4,
            "bbox": [1, 1, 2, 2],
            "segmentation": {"size": [4, 6], "counts": [5, 2, 2, 2, 13]},
        }
    ],
}
JUNK = st.sampled_from(
    [
        *(None, True, -1, 0, 99, 2.5, 10**400, float("nan"), float("inf"), "", "0.5"),
        *([], {}, [0, 0, 1], [0, 0, -1, 1], [0, 0, 1, "1"], [[0, 0, 1, 1]], [4, 6]),
        *({"size": [4, 6], "counts": "0"}, {"size": [4, 6], "counts": "\udc80"}),
        *({"size": [4], "counts": "0"}, {"counts": []}, {"size": [4.0, 6], "counts": [24]}),
    ]
).map(copy.deepcopy)


BOXES = st.sampled_from([[0, 0, -1, 1], [0, 0, 1, -1], [0, 0, 1, "1"], [0, 0, 1, float("nan")]])


@st.composite
def rows(draw, max_size=4):
    """Draw a sound list; all rows of a list have masks, boxes or both."""
    fields = draw(st.sampled_from([("bbox",), ("segmentation",), ("bbox", "segmentation")]))
    found = []
    for _ in range(draw(st.integers(0, max_size))):
        image_id = draw(st.sampled_from(sorted(SIZES)))
        mask = draw(hnp.arrays(bool, SIZES[image_id]))
        text = to_bytes(encode(mask)).decode()
        row = {
            "image_id": image_id,
            "category_id": draw(st.sampled_from([0, 7])),
            "score": draw(st.floats(0, 1)),
            "bbox": draw(st.lists(st.floats(0, 4), min_size=4, max_size=4)),
            "segmentation": {"size": list(SIZES[image_id]), "counts": text},
        }
        found.append(
            {k: v for k, v in row.items() if k in fields or k not in ("bbox", "segmentation")}
        )
    return found


def damage(draw, row):
    """Replace or remove one value of a row, or the row."""
    what = draw(st.sampled_from(["row", "remove", "replace", "replace", "inside"]))
    key = draw(st.sampled_from(sorted(row)))
    if what == "row":
        return draw(JUNK)
    if what == "remove":
        return {k: v for k, v in row.items() if k != key}
    if key == "bbox":
        return row | {key: draw(st.one_of(BOXES, JUNK))}
    mask = row.get("segmentation")
    if what == "inside" and isinstance(mask, dict):
        part = draw(st.sampled_from(["size", "counts"]))
        return row | {"segmentation": mask | {part: draw(JUNK)}}
    return row | {key: draw(JUNK)}


@given(rows(max_size=3))
def test_sound_rows_have_no_problem_and_score(listed):
    assert find_result_problems(listed, TRUTH, FILE, decode=True) == []
    metrics = evaluate_results(TRUTH, listed, max_dets=[1, 10, 100]).metrics
    assert all(value != value or 0 <= value <= 1 for value in metrics.values())


@settings(max_examples=2 * settings.default.max_examples)
@given(rows(), st.data())
def test_damaged_rows_end_in_problems_that_name_them(listed, data):
    broken = copy.deepcopy(listed)
    hit = {}
    for number in range(len(broken)):
        if data.draw(st.booleans()):
            broken[number] = hit[number] = damage(data.draw, broken[number])
    problems = find_result_problems(broken, TRUTH, FILE, decode=True)
    assert {problem.annotation for problem in problems} <= set(hit)
    assert all(problem.reason and problem.remedy for problem in problems)
    for problem in problems:
        assert f"row {problem.annotation}" in str(problem)
    left = [row for n, row in enumerate(broken) if n not in {p.annotation for p in problems}]
    assert find_result_problems(left, TRUTH, FILE, decode=True) == []
    masks = [row for row in left if "segmentation" in row]
    boxes = [row for row in left if "bbox" in row]
    for kind in (masks, boxes):
        evaluate_results(TRUTH, kind, max_dets=[1, 10, 100])  # whatever passes can be scored


def is_number(value):
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) < 1e300  # also false for NaN


def is_sound(row):
    """Judge one row without haste."""
    if not isinstance(row, dict) or not {"bbox", "segmentation"} & set(row):
        return False
    ids = [row.get("image_id"), row.get("category_id")]
    if not all(map(is_number, ids)) or ids[0] not in SIZES or ids[1] not in (0, 7):
        return False
    box = row.get("bbox", [0, 0, 0, 0])
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return False
    if not is_number(row.get("score")) or box[2] < 0 or box[3] < 0:
        return False
    return "segmentation" not in row or is_mask(row["segmentation"], SIZES[ids[0]])


def is_mask(mask, size):
    if not isinstance(mask, dict) or not {"size", "counts"} <= set(mask):
        return False
    counts = mask["counts"]
    if isinstance(counts, str):
        try:
            counts = from_bytes(counts).tolist()
        except ValueError:
            return False
    if not isinstance(counts, list) or not all(map(is_number, counts)):
        return False
    whole = isinstance(mask["size"], list) and all(type(side) is int for side in mask["size"])
    return whole and tuple(mask["size"]) == size and sum(counts) == size[0] * size[1]


@settings(max_examples=6 * settings.default.max_examples)
@given(rows(), st.data())
def test_the_quick_look_at_columns_misses_nothing(listed, data):
    broken = [damage(data.draw, row) if data.draw(st.booleans()) else row for row in listed]
    quick = find_result_problems(broken, TRUTH, FILE, decode=True)
    assert {p.annotation for p in quick} == {n for n, r in enumerate(broken) if not is_sound(r)}
    if result_checks._are_sound(broken, SIZES, {0, 7}):
        for row in broken:
            assert list(result_checks._row_faults(row, SIZES, {0, 7})) == []
    alone = [p for row in broken for p in find_result_problems([row], TRUTH, FILE, decode=True)]
    assert [p.reason for p in quick] == [p.reason for p in alone]


@given(
    st.one_of(
        st.binary(max_size=30),
        st.lists(JUNK, max_size=3),
        st.dictionaries(st.sampled_from(["annotations", "a"]), JUNK, max_size=2),
        JUNK,
    )
)
def test_any_file_at_all(content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_bytes(data)
        try:
            assert load_results(path, TRUTH) == []
        except DataProblems as error:
            assert str(path) in str(error)
