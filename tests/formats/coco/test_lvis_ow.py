"""The rule by which LVIS-OW's files follow from LVIS v1's."""

import pytest

from formats.coco.lvis_ow import lvis_ow
from formats.coco.splits import CategorySplit

SPLIT = CategorySplit("lvis-ow", known=(1,), seen=(2,), unseen=(3,))
CATEGORIES = [{"id": i, "name": str(i)} for i in (1, 2, 3)]


def content(images, annotations):
    url = "http://images.cocodataset.org/train2017/00{}.jpg"
    return {
        "images": [{"id": i, "coco_url": url.format(i)} for i in images],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category}
            for n, image, category in annotations
        ],
        "categories": CATEGORIES,
    }


def pairs(part):
    return [(a["id"], a["image_id"], a["category_id"]) for a in part["annotations"]]


def test_images_with_a_rare_category_move_with_all_their_annotations():
    train = content([10, 11, 12], [(1, 10, 1), (2, 10, 2), (3, 11, 1), (4, 11, 3), (5, 12, 2)])
    done = lvis_ow(train, content([20], [(1, 20, 3)]), SPLIT)
    assert [image["id"] for image in done.train["images"]] == [10, 12]
    assert pairs(done.train) == [(1, 10, 1)]
    assert [image["id"] for image in done.val["images"]] == [20, 11]
    assert pairs(done.val) == [(1, 20, 3), (2000003, 11, 1), (2000004, 11, 3)]
    assert (done.counts["moved_images"], done.counts["moved_annotations"]) == (1, 2)
    assert done.train["images"][0]["file_name"] == "train2017/0010.jpg"
    assert done.val["categories"] == done.train["categories"] == CATEGORIES


def test_files_that_share_an_image_are_refused():
    train = content([10], [(1, 10, 3)])
    with pytest.raises(ValueError, match="image id 10 of --train is also in --val"):
        lvis_ow(train, train, SPLIT)
