"""Pseudo-labels: thresholds, splits and files that cannot be meant, and data without them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import sets
from tests.faults.case import Case

_KNOWN = ("--known", 3)


def made(
    *words: object, change: Callable[[dict[str, Any], list[dict[str, Any]]], object] | None = None
) -> Callable[[Path], list[object]]:
    """Return a builder of changed annotations and rows, and the command with the words."""

    def build(folder: Path) -> list[object]:
        truth, rows = sets.truth(), sets.results()
        if change is not None:
            change(truth, rows)
        files = folder / "truth.json", folder / "found.json"
        for file, content in zip(files, (truth, rows), strict=True):
            file.write_text(json.dumps(content))
        sources = ["--annotations", files[0], "--predictions", files[1]]
        named = [files[0] if word == "TRUTH" else word for word in words]
        out = [] if "--out" in words else ["--out", folder / "made.json"]
        return ["evaluate", "pseudo-labels", *sources, *out, *named]

    return build


def case(name: str, words: tuple[object, ...], *expected: str, change: Any = None) -> Case:
    return Case("pseudo-labels", name, made(*words, change=change), expected)


def _boxes_alone(_: Any, rows: list[dict[str, Any]]) -> None:
    rows[1].pop("segmentation")


def _an_object_without_mask(truth: dict[str, Any], _: Any) -> None:
    truth["annotations"][1]["segmentation"] = []


def _a_nameless_category(truth: dict[str, Any], _: Any) -> None:
    truth["categories"][1].pop("name")


def _an_earlier_round(truth: dict[str, Any], _: Any) -> None:
    truth["categories"].append({"id": 9, "name": "pseudo"})


def _training(folder: Path) -> list[object]:
    data = [
        "--data.root",
        sets.write_coco(folder),
        "--data.known",
        "[cell]",
        "--data.pseudo",
        "true",
    ]
    return [*sets.COCO, *data]


CASES = [
    case("a score above 1", (*_KNOWN, "--score", 1.5), "--score", "in [0, 1], got 1.5"),
    case("a negative overlap", (*_KNOWN, "--max-iou", -0.1), "--max-iou", "in [0, 1], got -0.1"),
    case("an overlap that is no number", (*_KNOWN, "--nms", "nan"), "--nms", "in [0, 1], got nan"),
    case("no label an image", (*_KNOWN, "--per-image", 0), "--per-image", "must be positive"),
    case("no known categories", (), "needs the known categories", "--known voc"),
    case("a split of other data", ("--known", "lvis-ow", "--score", 0.5), "truth.json"),
    case("rows without masks", _KNOWN, "found.json", "row 1 of image 12 has no segmentation",
         change=_boxes_alone),
    case("objects without masks", _KNOWN, "truth.json", "annotation 102 of image 11 has no",
         change=_an_object_without_mask),
    case("a category without a name", _KNOWN, "truth.json", "category number 1 (id 7) lacks name",
         change=_a_nameless_category),
    case("pseudo-labels known", ("--known", 3, 9), "truth.json", "leave it out of --known",
         change=_an_earlier_round),
    case("the annotations replaced", (*_KNOWN, "--out", "TRUTH"), "--out", "would replace it"),
    Case("pseudo-labels", "data without them", _training,
         ("instances_train.json", "none of its 2 categories is 'pseudo'", "data.pseudo: false")),
]  # fmt: skip
