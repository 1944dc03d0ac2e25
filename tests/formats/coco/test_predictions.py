"""Predictions as one object, and what a checkpoint's cap means for counting them."""

import dataclasses

from formats.coco.predictions import CocoPredictions, prediction_document

TRUTH = {
    "images": [{"id": n, "height": 4, "width": 4} for n in (1, 2)],
    "categories": [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [0, 0, 2, 2], "area": 4}],
}
# Three rows in image 1, two of one class; two in image 2.
PLACES = [(1, 3), (1, 5), (1, 3), (2, 3), (2, 5)]
ROWS = [
    {"image_id": image, "category_id": category, "bbox": [0, 0, 2, 2], "score": 0.5}
    for image, category in PLACES
]


def test_all_rows_of_a_checkpoint_are_meant_and_none_of_a_file():
    found = CocoPredictions(TRUTH, ROWS, max_dets=1)
    assert (found.most_per_image, found.most_per_class) == (3, 2)
    of_a_file = dataclasses.replace(found, max_dets=None)
    assert (of_a_file.most_per_image, of_a_file.most_per_class) == (0, 0)
    nothing = dataclasses.replace(found, rows=[])
    assert (nothing.most_per_image, nothing.most_per_class) == (0, 0)


def test_merged_categories_keep_the_rest():
    found = CocoPredictions(TRUTH, ROWS, 7, 9).class_agnostic()
    assert found.ground_truth["categories"] == [{"id": 1, "name": "object"}]
    assert {a["category_id"] for a in [*found.rows, *found.ground_truth["annotations"]]} == {1}
    assert (found.max_dets, found.parameters, found.most_per_class) == (7, 9, 3)
    assert [row["category_id"] for row in ROWS] == [3, 5, 3, 3, 5]


def test_a_document_of_predictions_has_images_and_areas():
    images = [{"id": 7, "file_name": "a.png", "height": 4, "width": 6, "path": "/x/a.png"}]
    row = {"image_id": 7, "category_id": 3, "bbox": [1, 1, 2.5, 2]}
    mask = {"size": [4, 6], "counts": "54?"}  # 5 pixels outside, 4 inside, 15 outside
    rows = [
        {**row, "score": 0.699999988079071},  # 0.7 in single precision
        {**row, "score": 0.9, "segmentation": mask},
        {**row, "score": 0.5},
    ]
    found = prediction_document(images, TRUTH["categories"], rows, 0.7)
    assert found == {
        "images": [{"id": 7, "file_name": "a.png", "width": 6, "height": 4}],
        "categories": TRUTH["categories"],
        "annotations": [
            {**rows[0], "id": 1, "area": 5.0, "iscrowd": 0},
            {**rows[1], "id": 2, "area": 4, "iscrowd": 0},
        ],
    }
