"""COCO dictionaries: sound ones come through unchanged, damaged ones end in problems only."""

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from formats.coco.document import check_coco, load_coco
from formats.coco.store import AnnotationStore
from structures import CategoryMap, DataProblems
from structures.rle import decode, encode, from_bytes, to_bytes

FILE = Path("instances.json")
IMAGE_KEYS = ("id", "file_name", "height", "width")
JUNK = st.sampled_from(
    [
        *(None, True, -1, 0, 3.5, 2**70, float("nan"), float("inf"), "", "x"),
        *([], {}, [None], [[1, "a"]], [[]], [-5, 3], [1e308] * 6, [10**400] * 6, 10**400),
        *({"size": [1, 1], "counts": "0"}, {"size": "ab", "counts": [1]}),
    ]
).map(copy.deepcopy)


def polygon(draw, mask):
    """Draw a polygon that overlaps the image."""
    height, width = mask.shape
    x = draw(st.lists(st.floats(0.25, width - 0.5), min_size=3, max_size=5))
    y = draw(st.lists(st.floats(0.25, height - 0.5), min_size=len(x), max_size=len(x)))
    return [v for xy in zip(x, y, strict=True) for v in xy]


@st.composite
def annotations(draw, size):
    """Draw a segmentation in one of its four forms, with the mask where it is known."""
    mask = draw(hnp.arrays(bool, size))
    runs = encode(mask)
    kind = draw(st.sampled_from(["polygon", "parts", "list", "text"]))
    if kind == "list":
        return {"size": list(size), "counts": runs.tolist()}, mask
    if kind == "text":
        return {"size": list(size), "counts": to_bytes(runs).decode()}, mask
    return [polygon(draw, mask) for _ in range(1 + (kind == "parts"))], None


@st.composite
def sets(draw):
    """Draw a COCO dictionary, its records in any order, and the masks by annotation id."""
    categories = draw(st.lists(st.integers(0, 90), min_size=1, max_size=4, unique=True))
    drawn_images = draw(st.lists(st.integers(0, 10**12), max_size=3, unique=True))
    side = st.integers(1, 8)
    images = [
        {"id": i, "file_name": f"{k}.png", "height": draw(side), "width": draw(side)}
        for k, i in enumerate(drawn_images)
    ]
    records, masks = [], {}
    numbers = draw(st.lists(st.integers(0, 10**12), max_size=4 if images else 0, unique=True))
    for number in numbers:
        image = draw(st.sampled_from(images))
        segmentation, mask = draw(annotations((image["height"], image["width"])))
        record = {
            "id": number,
            "image_id": image["id"],
            "category_id": draw(st.sampled_from(categories)),
            "segmentation": segmentation,
        }
        if draw(st.booleans()):
            record |= {"iscrowd": draw(st.integers(0, 1)), "area": 2.5, "bbox": [0, 0, 1, 1]}
        records.append(record)
        masks[number] = mask
    named = [{"id": c, "name": f"class {c}"} for c in categories]
    return {"images": images, "annotations": records, "categories": named}, masks


def stored(data):
    table = CategoryMap.from_coco(data["categories"])
    return AnnotationStore.from_coco(data, table.labels()), table


@given(sets())
def test_sound_sets_come_through(drawn):
    data, masks = drawn
    found = check_coco(FILE, data, image_keys=IMAGE_KEYS)
    if data["images"]:
        assert found.problems == []
        assert found.data == data
    store, table = stored(data)
    out = store.to_coco(table)
    assert [i["id"] for i in out["images"]] == sorted(i["id"] for i in data["images"])
    assert sorted(a["id"] for a in out["annotations"]) == sorted(masks)
    given_ = {a["id"]: a for a in data["annotations"]}
    for annotation in out["annotations"]:
        before = given_[annotation["id"]]
        assert annotation["image_id"] == before["image_id"]
        assert annotation["category_id"] == before["category_id"]
        assert annotation["iscrowd"] == before.get("iscrowd", 0)
        size = tuple(annotation["segmentation"]["size"])
        dense = decode(from_bytes(annotation["segmentation"]["counts"]), size)
        if masks[annotation["id"]] is not None:
            assert np.array_equal(dense, masks[annotation["id"]])
        assert annotation["area"] == before.get("area", dense.sum())
    again, _ = stored(json.loads(json.dumps(out)))  # a file that is written and read
    assert again.to_coco(table) == out


@given(sets(), st.randoms(use_true_random=False))
def test_the_order_of_a_file_does_not_matter(drawn, random):
    data, _ = drawn
    shuffled = {key: list(records) for key, records in data.items()}
    for records in shuffled.values():
        random.shuffle(records)
    one, table = stored(data)
    two, _ = stored(shuffled)
    assert one.to_coco(table) == two.to_coco(table)


def places(node, path=()):
    """Yield the path of every value inside nested containers."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def damage(draw, data):
    """Replace, remove or repeat one value anywhere below the three lists."""
    found = [path for path in places(data) if len(path) > 1]
    if not found:
        return data
    *parents, last = draw(st.sampled_from(found))
    node = data
    for key in parents:
        node = node[key]
    what = draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
    if what == "replace":
        node[last] = draw(JUNK)
    elif what == "remove":
        del node[last]
    elif isinstance(node, list):
        node.append(node[last])
    return data


@settings(max_examples=4 * settings.default.max_examples)
@given(sets(), st.data())
def test_damaged_sets_end_in_problems_and_the_rest_is_usable(drawn, data):
    broken = copy.deepcopy(drawn[0])
    for _ in range(data.draw(st.integers(1, 3))):
        broken = damage(data.draw, broken)
    found = check_coco(FILE, broken, image_keys=IMAGE_KEYS)
    assert all(problem.reason and problem.remedy for problem in found.problems)
    assert all(str(problem).startswith(str(FILE)) for problem in found.problems)
    if not found.problems:
        assert found.data == broken
    if not found.fatal:  # whatever is left trains: it can be packed and written
        store, table = stored(found.data)
        json.dumps(store.to_coco(table), allow_nan=False)


NUMBERS = st.sampled_from([-50, -1, 0, 1.5, 2, 5, 1e308, float("nan"), 10**400, True, None, "1"])
SEGMENTATIONS = st.one_of(
    st.lists(st.lists(NUMBERS, min_size=5, max_size=7), max_size=2),
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([[4, 6], [6, 4], [4], [4.0, 6], [True, 24], None, 24]),
            "counts": st.one_of(
                st.lists(st.sampled_from([24, 12, -12, 0, 12.0, True, 10**400, None]), max_size=3),
                st.sampled_from(["", "h0", "~", "\udc80", None, 24]),
            ),
        }
    ),
    JUNK,
)


@settings(max_examples=10 * settings.default.max_examples)
@given(SEGMENTATIONS, st.one_of(st.none(), st.lists(NUMBERS, min_size=3, max_size=5)))
def test_any_segmentation_and_box_is_told_or_packed(segmentation, box):
    record = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation}
    record |= {} if box is None else {"bbox": box}
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
        "annotations": [record],
        "categories": [{"id": 1, "name": "plum"}],
    }
    found = check_coco(FILE, data, image_keys=IMAGE_KEYS)
    assert {problem.annotation for problem in found.problems} <= {1}
    if not found.problems:
        store, _ = stored(data)
        assert decode(from_bytes(store.rles[0]), (4, 6)).sum() == store.pixels[0]
        assert np.isfinite(store.boxes).all()
        assert (store.boxes >= 0).all() or box is not None


@given(
    st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text("ab", max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["images", "annotations", "categories"]), inner)
            ),
            max_leaves=6,
        ),
    )
)
def test_any_file_at_all(content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        path.write_bytes(data)
        try:
            loaded = load_coco(path)
        except DataProblems as error:
            assert str(path) in str(error)
            return
    check_coco(path, loaded, image_keys=IMAGE_KEYS)
