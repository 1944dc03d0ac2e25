"""Labels of whole images, as LVIS has them."""

from pathlib import Path

import pytest

from formats.coco.document import check_coco
from formats.coco.image_labels import ImageLabelStore

IMAGES = [
    {"id": 9, "neg_category_ids": [4, 99], "not_exhaustive_category_ids": []},
    {"id": 2, "not_exhaustive_category_ids": [30, 4]},
    {"id": 5, "neg_category_ids": None},
]


def test_they_are_sorted_as_images_and_unknown_categories_are_left_out():
    labels = {4: 0, 7: 1, 30: 9}
    store = ImageLabelStore.from_coco(IMAGES, labels, 10)
    rows = [store.image(number) for number in range(3)]
    assert [row.negative.nonzero()[0].tolist() for row in rows] == [[], [], [0]]
    assert [row.not_exhaustive.nonzero()[0].tolist() for row in rows] == [[0, 9], [], []]
    assert rows[0].negative.shape == (10,)


def test_there_are_none_where_no_image_states_any():
    images = [{"id": 1}, {"id": 2, "neg_category_ids": None}]
    assert ImageLabelStore.from_coco(images, {1: 0}, 1) is None


@pytest.mark.parametrize("value", [7, "7", ["7"], [1.5], {"7": 1}])
def test_what_is_no_list_of_ids_is_a_problem_of_the_image(value):
    image = {"id": 3, "height": 4, "width": 4, "file_name": "a.png", "neg_category_ids": value}
    data = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "fig"}]}
    found = check_coco(Path("train.json"), data)
    assert any("neg_category_ids is" in problem.reason for problem in found.problems)
    assert found.data["images"] == []
