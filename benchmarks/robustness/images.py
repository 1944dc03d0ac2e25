"""Test images of the study of robustness, and the other data sets (domains) beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

from benchmarks.robustness.plan import DIGITS
from datamodules.seg.digit_scenes import DigitScenesDataModule
from formats.coco.results import load_ground_truth
from formats.files import write_json

SCENES = 60
LARGEST_SIDE = 360  # pixels of the nuclei's images that are tested: A816
ENLARGED = 1.5
STYLES: dict[str, dict[str, Any]] = {  # of the digit scenes; the training has smooth ones
    "textures": {"textures": ("plain", "stripes")},
    "dark": {"dark": True},
}
LARGER = "larger"
DOMAINS = (*STYLES, LARGER)


class Images(NamedTuple):
    """A COCO file and its images."""

    annotations: Path
    images: Path


def images_of(data: str, root: Path, nuclei: Path | None) -> dict[str | None, Images]:
    """Return the test images of a data set, under None, and those of each domain.

    They are written unless they are there.

    Args:
        data: ``digits`` or ``nuclei``.
        root: folder of the study.
        nuclei: COCO folder of the nuclei.
    """
    place = root / data / "test"
    if data == DIGITS:
        found: dict[str | None, Images] = {None: _scenes(place / "as_trained", {})}
        for name, style in STYLES.items():
            found[name] = _scenes(place / name, style)
    else:
        if nuclei is None:
            raise ValueError("--nuclei names the COCO folder of nuclei")
        found = {None: _subset(place / "as_trained", nuclei)}
    found[LARGER] = _enlarged(place / LARGER, found[None])
    return found


def _scenes(place: Path, style: dict[str, Any]) -> Images:
    annotations = place / "annotations/instances_test.json"
    if not annotations.is_file():
        DigitScenesDataModule(test_scenes=SCENES, **style).write_split("test", place)
    return Images(annotations, place / "images/test")


def _subset(place: Path, nuclei: Path) -> Images:
    """Return every second validation image but for the largest, which cost most (A816)."""
    annotations = place / "annotations.json"
    if not annotations.is_file():
        truth = load_ground_truth(nuclei / "annotations/instances_val.json")
        small = [i for i in truth["images"] if max(i["height"], i["width"]) <= LARGEST_SIDE]
        write_json(annotations, _kept(truth, small[::2]))
    return Images(annotations, nuclei / "images/val")


def _kept(truth: dict[str, Any], images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = {image["id"] for image in images}
    objects = [one for one in truth["annotations"] if one["image_id"] in known]
    return {"images": list(images), "annotations": objects, "categories": truth["categories"]}


def _enlarged(place: Path, given: Images) -> Images:
    """Write images and masks 1.5 times as large."""
    annotations, images = place / "annotations.json", place / "images"
    if annotations.is_file():
        return Images(annotations, images)
    truth = json.loads(given.annotations.read_text())
    images.mkdir(parents=True, exist_ok=True)
    sizes: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}
    records = []
    for record in truth["images"]:
        before = record["height"], record["width"]
        after = round(ENLARGED * before[0]), round(ENLARGED * before[1])
        sizes[record["id"]] = before, after
        pixels = np.asarray(Image.open(given.images / record["file_name"]).convert("RGB"))
        larger = cv2.resize(pixels, after[::-1], interpolation=cv2.INTER_LINEAR)
        name = Path(record["file_name"]).with_suffix(".png")
        Image.fromarray(larger).save(images / name)
        changed = {"height": after[0], "width": after[1], "file_name": str(name)}
        records.append({**record, **changed})
    objects = [_larger(one, *sizes[one["image_id"]]) for one in truth["annotations"]]
    content = {"images": records, "annotations": objects, "categories": truth["categories"]}
    write_json(annotations, content)
    return Images(annotations, images)


def _larger(one: dict[str, Any], before: tuple[int, int], after: tuple[int, int]) -> dict[str, Any]:
    """Return an object in an image of another size; sizes are (height, width)."""
    code = one["segmentation"]
    if isinstance(code, list):  # polygons
        code = coco_mask.merge(coco_mask.frPyObjects(code, *before))
    elif isinstance(code["counts"], list):
        code = coco_mask.frPyObjects(code, *before)
    mask = cv2.resize(coco_mask.decode(code), after[::-1], interpolation=cv2.INTER_NEAREST)
    packed = coco_mask.encode(np.asfortranarray(mask))
    changed = {
        "segmentation": {"size": packed["size"], "counts": packed["counts"].decode()},
        "area": int(mask.sum()),
        "bbox": list(map(float, coco_mask.toBbox(packed))),
    }
    return {**one, **changed}
