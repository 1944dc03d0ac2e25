"""Pseudo-labels against the rules written out on masks of pixels."""

import copy

import numpy as np
import pycocotools.mask as coco_mask
import pytest

from evaluation.open_world.pseudo_labels import OUTCOMES, Rules, add_pseudo_labels
from formats.coco.pseudo import without_pseudo
from formats.coco.store import encode_segmentation
from tests.support.open_world import KNOWN, make_scenes

SIZE = (160, 200)


def dense(record):
    counts = encode_segmentation(record["segmentation"], *SIZE)
    return coco_mask.decode({"size": SIZE, "counts": counts}).astype(bool)


def slow(known, rows, rules):
    """Return the rows that become labels, in the words of the rules."""
    chosen = []
    for image in known["images"]:
        mine = [row for row in rows if row["image_id"] == image["id"]]
        objects = [a for a in known["annotations"] if a["image_id"] == image["id"]]
        kept = []
        for row in sorted(mine, key=lambda r: -r["score"]):
            mask = dense(row)
            free = row["score"] >= rules.score and mask.any() and len(kept) < rules.per_image
            for thing in objects:
                other = dense(thing)
                common = (mask & other).sum()
                whole = mask.sum() if thing["iscrowd"] else (mask | other).sum()
                free &= common <= rules.max_iou * max(whole, 1)
            for label in kept:
                other = dense(label)
                free &= (mask & other).sum() <= rules.nms * (mask | other).sum()
            if free:
                kept.append(row)
        chosen += kept
    return chosen


def known_scenes(seed, **options):
    truth, rows = make_scenes(seed, **options)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] in KNOWN]
    return truth, rows


@pytest.mark.parametrize(
    "rules",
    [Rules(), Rules(0.3, 0.5, 0.5, 3), Rules(0, 0, 1, 100), Rules(0, 1, 0, 2), Rules(1, 1, 1, 1)],
    ids=str,
)
def test_the_labels_are_those_of_the_rules(rules):
    for seed in (1, 2):
        known, rows = known_scenes(seed)
        before = copy.deepcopy((known, rows))
        content, outcomes = add_pseudo_labels(known, rows, rules)
        assert (known, rows) == before
        assert content["images"] == known["images"]
        number = len(known["annotations"])
        assert content["annotations"][:number] == known["annotations"]
        made = content["annotations"][number:]
        wanted = slow(known, rows, rules)
        for one, row in zip(made, wanted, strict=True):
            assert one["segmentation"] == row["segmentation"]
            assert (one["image_id"], one["score"]) == (row["image_id"], row["score"])
            mask = dense(row)
            (top, bottom), (left, right) = ((w.min(), w.max()) for w in np.nonzero(mask))
            assert one["bbox"] == [left, top, right - left + 1, bottom - top + 1]
            assert one["area"] == mask.sum()
            assert (one["is_pseudo"], one["iscrowd"], one["category_id"]) == (1, 0, 8)
        assert content["categories"][-1] == {"id": 8, "name": "pseudo"}
        ids = [a["id"] for a in content["annotations"]]
        assert len(set(ids)) == len(ids)
        assert tuple(outcomes) == OUTCOMES
        assert sum(outcomes.values()) == len(rows)
        assert outcomes["pseudo_labels"] == len(made)
        assert without_pseudo(content)["annotations"] == known["annotations"]


def test_the_category_of_an_earlier_round_is_used_again():
    known, rows = known_scenes(1)
    once = add_pseudo_labels(known, rows, Rules(0.5))[0]
    again = add_pseudo_labels(dict(once, annotations=known["annotations"]), rows, Rules(0.5))[0]
    assert again == once


def test_equality_with_a_threshold_is_kept_and_empty_masks_are_not():
    def row(image, x, width, score=0.9):
        mask = np.zeros(SIZE, dtype=np.uint8, order="F")
        mask[:10, x : x + width] = 1
        found = coco_mask.encode(mask)
        shape = {"size": found["size"], "counts": found["counts"].decode()}
        return {"image_id": image, "category_id": 1, "score": score, "segmentation": shape}

    thing = row(1, 0, 10) | {"id": 3, "iscrowd": 0}
    known = {
        "images": [{"id": 1, "height": 160, "width": 200}],
        "annotations": [thing],
        "categories": [{"id": 1, "name": "one"}],
    }
    # IoU 20 / 100 with the object, 20 / 100 with the one before, then 10 / 100 of both and so on
    rows = [row(1, 8, 2, 1.0), row(1, 50, 10, 0.95), row(1, 58, 2), row(1, 80, 0), row(1, 7, 3)]
    content, outcomes = add_pseudo_labels(known, rows, Rules())
    assert [a["score"] for a in content["annotations"][1:]] == [1.0, 0.95, 0.9]
    assert dict(outcomes) == {
        "pseudo_labels": 3, "below_score": 0, "on_known": 1, "repeated": 0, "over_cap": 0,
        "empty": 1,
    }  # fmt: skip
