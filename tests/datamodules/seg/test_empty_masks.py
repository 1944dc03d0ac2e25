"""Masks without a pixel."""

from pathlib import Path

import pytest

from datamodules.seg.empty_masks import empty_masks
from formats.coco.store import AnnotationStore

FILE = Path("instances.json")
SEEN, UNSEEN = [[2, 2, 6, 2, 6, 6, 2, 6]], [[2.6, 2.6, 2.9, 2.6, 2.9, 2.9]]


def store(*masks, crowd=()):
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1, "segmentation": m, "iscrowd": int(n in crowd)}
        for n, m in enumerate(masks, start=1)
    ]
    images = [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}]
    return AnnotationStore.from_coco({"images": images, "annotations": annotations}, {1: 0})


def test_single_ones_are_a_note_with_three_examples():
    problem, note = empty_masks(FILE, "train", store(SEEN, *[UNSEEN] * 4))
    assert problem is None
    assert "4 of 5 annotations of train have a mask without a pixel" in note
    assert "such as 2 of a.png, 3 of a.png, 4 of a.png; " in note


@pytest.mark.parametrize(("split", "use"), [("train", "learnt"), ("val", "scored")])
def test_a_split_without_another_mask_is_a_problem(split, use):
    problem, note = empty_masks(FILE, split, store(UNSEEN, UNSEEN, SEEN, crowd=[3]))
    assert note == ""
    assert f"none of the 2 masks of {split} covers a pixel: nothing can be {use}" in str(problem)


def test_what_is_no_matter():
    assert empty_masks(FILE, "train", store(SEEN, UNSEEN, crowd=[2])) == (None, "")
    assert empty_masks(FILE, "test", store(UNSEEN))[0] is None
