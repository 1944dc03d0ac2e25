import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from formats.coco.store import AnnotationStore, PackedBytes, encode_segmentation
from structures import CategoryMap

LABELS = {0: 0, 5: 1, 8: 2, 11: 3}


def test_packed_bytes():
    parts = [b"abc", b"", "äß".encode(), b"\x00\xff"]
    packed = PackedBytes.pack(parts)
    assert len(packed) == 4
    assert [packed[k] for k in range(4)] == parts
    assert len(PackedBytes.pack([])) == 0


def test_three_ways_to_write_a_mask():
    square = [1.0, 2.0, 5.0, 2.0, 5.0, 6.0, 1.0, 6.0]  # columns 1-4, rows 2-5 of 8 x 10
    dense = np.zeros((8, 10), dtype=np.uint8)
    dense[2:6, 1:5] = 1
    expected = coco_mask.encode(np.asfortranarray(dense))["counts"]
    # column by column: 8 + 2 empty, then 4 in and 4 out, and 37 + 1 pixels after the last
    runs = [10, 4, 4, 4, 4, 4, 4, 4, 42]
    assert encode_segmentation([square], 8, 10) == expected
    assert encode_segmentation({"size": [8, 10], "counts": runs}, 8, 10) == expected
    text = expected.decode()
    assert encode_segmentation({"size": [8, 10], "counts": text}, 8, 10) == expected


def test_store_by_hand(small_coco):
    store = AnnotationStore.from_coco(small_coco, LABELS)
    assert store.image_ids.tolist() == [3, 7, 11]
    assert [store.name(p) for p in range(3)] == ["three.png", "seven.png", "eleven.png"]
    assert [store.size(p) for p in range(3)] == [(20, 10), (12, 16), (9, 9)]
    assert store.ids.tolist() == [12, 13, 40]
    assert store.pixels.tolist() == [9, 24, 48]
    assert store.counts().tolist() == [1, 1, 0]
    masks, labels, crowd = store.image(1)
    assert labels.tolist() == [1, 2]
    assert crowd.tolist() == [True, False]
    expected = np.zeros((2, 12, 16), dtype=bool)
    expected[0, :, :2] = True
    expected[1, 2:8, 2:8] = expected[1, 1:4, 10:14] = True
    assert np.array_equal(masks.decode(), expected)
    holed = np.zeros((20, 10), dtype=bool)
    holed[5:10, 1] = True
    holed[[5, 6, 8, 9], 2] = True
    assert np.array_equal(store.image(0).masks.decode()[0], holed)
    assert len(store.image(2).masks) == 0


def test_annotations_of_other_categories_are_left_out(small_coco):
    store = AnnotationStore.from_coco(small_coco, {8: 0})
    assert store.ids.tolist() == [40]
    assert store.labels.tolist() == [0]
    assert len(store) == 3


def test_back_to_coco(small_coco):
    store = AnnotationStore.from_coco(small_coco, LABELS)
    back = store.to_coco(CategoryMap.from_coco(small_coco["categories"]))
    assert json.loads(json.dumps(back)) == back
    assert back["categories"] == sorted(small_coco["categories"], key=lambda c: c["id"])
    assert back["images"] == sorted(small_coco["images"], key=lambda i: i["id"])
    originals = {a["id"]: a for a in small_coco["annotations"]}
    for annotation in back["annotations"]:
        original = originals.pop(annotation["id"])
        for key in ("image_id", "category_id", "iscrowd", "area", "bbox"):
            assert annotation[key] == original[key]
    assert originals == {}


def test_area_and_box_come_from_the_mask_where_the_file_has_none(small_coco):
    for annotation in small_coco["annotations"]:
        del annotation["area"], annotation["bbox"]
    store = AnnotationStore.from_coco(small_coco, LABELS)
    assert store.areas.tolist() == [9, 24, 48]
    assert store.boxes.tolist() == [[1, 5, 2, 5], [0, 0, 2, 12], [2, 1, 12, 7]]


def test_degenerate_annotations_are_counted_and_kept(small_coco):
    line = [3.0, 3.0, 6.0, 3.0, 6.0, 3.0]  # no pixel centre lies inside
    small_coco["annotations"][0]["segmentation"] = [line]
    store = AnnotationStore.from_coco(small_coco, LABELS)
    assert store.count_degenerate() == 1
    assert store.image(1).masks.areas().tolist() == [24, 0]


def test_no_annotations_at_all(small_coco):
    small_coco["annotations"] = []
    store = AnnotationStore.from_coco(small_coco, LABELS)
    assert len(store) == 3
    assert store.counts().tolist() == [0, 0, 0]
    assert store.to_coco(CategoryMap((0,), ("x",)))["annotations"] == []


def test_few_objects_whatever_the_number_of_annotations(small_coco):
    small_coco["annotations"] = [
        small_coco["annotations"][0] | {"id": number} for number in range(1000)
    ]
    store = AnnotationStore.from_coco(small_coco, LABELS)
    assert len(pickle.dumps(store)) < 1000 * 120  # no Python object for an annotation
    for name in ("buffer", "offsets"):
        assert isinstance(getattr(store.rles, name), np.ndarray)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
@pytest.mark.parametrize("name", ["coco_small", "dsb2018_fluo"])
def test_real_masks_equal_those_of_pycocotools(shared_data, name):
    file = shared_data(name) / "annotations" / "instances_val.json"
    reference = COCO(str(file))
    data = json.loads(file.read_text())
    labels = CategoryMap.from_coco(data["categories"]).labels()
    store = AnnotationStore.from_coco(data, labels)
    assert store.ids.size == len(data["annotations"])
    for p in range(0, len(store), 3):
        start, stop = store.offsets[p : p + 2]
        for number, mask in zip(store.ids[start:stop], store.image(p).masks.decode(), strict=True):
            assert np.array_equal(mask, reference.annToMask(reference.anns[int(number)]) == 1)
    back = store.to_coco(CategoryMap.from_coco(data["categories"]))
    for annotation in back["annotations"]:
        original = reference.anns[annotation["id"]]
        assert annotation["area"] == original["area"]
        assert annotation["bbox"] == original["bbox"]
        assert annotation["category_id"] == original["category_id"]


def test_ids_of_images_may_be_texts(small_coco):
    names = {image["id"]: f"picture {image['id']}" for image in small_coco["images"]}
    for image in small_coco["images"]:
        image["id"] = names[image["id"]]
    for annotation in small_coco["annotations"]:
        annotation["image_id"] = names[annotation["image_id"]]
    labels = {category["id"]: n for n, category in enumerate(small_coco["categories"])}
    store = AnnotationStore.from_coco(small_coco, labels)
    assert store.image_ids.tolist() == sorted(names.values())
    back = store.to_coco(CategoryMap(tuple(labels), tuple(map(str, labels))))
    assert [image["id"] for image in back["images"]] == sorted(names.values())
    owners = {a["id"]: a["image_id"] for a in small_coco["annotations"]}
    assert {a["id"]: a["image_id"] for a in back["annotations"]} == owners
    assert json.loads(json.dumps(back)) == back


def test_some_labels_under_other_labels(small_coco):
    store = AnnotationStore.from_coco(small_coco, LABELS)
    some = store.relabelled({2: 0, 0: 4})
    wanted = AnnotationStore.from_coco(small_coco, {8: 0, 0: 4})
    names = CategoryMap((8, 1, 2, 3, 0), ("pear", "a", "b", "c", "apple"))
    assert some.to_coco(names) == wanted.to_coco(names)
    for index in range(3):
        for one, other in zip(some.image(index), wanted.image(index), strict=True):
            assert len(one) == len(other)
    assert some.counts().tolist() == wanted.counts().tolist()
    assert len(store.relabelled({}).ids) == 0
