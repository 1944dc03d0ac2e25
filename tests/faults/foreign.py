"""Annotations that cannot be repaired, splits without objects, and folders in no known layout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import sets, yolo
from tests.faults.annotations import scored
from tests.faults.case import Case

Change = Callable[[dict[str, Any]], object]
_POINTS = [4.0, 4.0, 16.0, 4.0, 16.0, 16.0, 4.0, 16.0]
_OUT = [[60.0, 60.0, 70.0, 60.0, 70.0, 70.0]]


def mended_case(name: str, change: Change, *expected: str, policy: str | None = None) -> Case:
    """Break a valid file and score with it."""

    def build(folder: Path) -> list[object]:
        data = sets.truth()
        change(data)
        words = scored(folder, data)
        return words if policy is None else [*words, "--bad-data", policy]

    return Case("repair", name, build, ("truth.json", *expected))


def first(**changes: Any) -> Change:
    return lambda data: data["annotations"][0].update(changes)


def all_of(**changes: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation.update(changes)

    return change


def _twin(data: dict[str, Any]) -> None:
    data["categories"][1]["name"] = "cell"


def _mixed(data: dict[str, Any]) -> None:
    data["images"][2]["id"] = "13"


def _with(*words: object) -> Callable[[Path], list[object]]:
    """Score a valid file with further words."""
    return lambda folder: [*scored(folder, sets.truth()), *words]


def _converted(policy: str) -> Callable[[Path], list[object]]:
    def build(folder: Path) -> list[object]:
        root = sets.write_coco(folder)
        data = sets.truth()
        all_of(segmentation=_OUT)(data)
        file = root / "annotations/instances_train.json"
        file.write_text(json.dumps(data))
        where = ["--annotations", file, "--images", root / "images/train", "--out", root / "yolo"]
        words = ["--from", "coco", "--to", "yolo", *where, "--bad-data", policy]
        return ["evaluate", "convert", *words]

    return build


REPAIR = [
    mended_case("a sliver beside a valid part", first(segmentation=[_POINTS, [1, 1, 4, 4]]),
                "101", "3 points", "or use bad_data: repair"),
    mended_case("a polygon that reaches out", first(segmentation=[[4, 4, 40, 4, 40, 16, 4, 16]]),
                "101", "outside the image", "or use bad_data: repair"),
    mended_case("a box without area around a mask", first(bbox=[4, 4, 0, 12]),
                "101", "no area", "or use bad_data: repair"),
    mended_case("a box that is lost", lambda d: d["annotations"][0].pop("bbox"),
                "101", "lacks bbox", "or use bad_data: repair"),
    mended_case("an area as text beside a mask", first(area="large"),
                "101", "area", "or use bad_data: repair"),
    mended_case("polygons of other images", all_of(segmentation=_OUT), "101", "outside",
                "no object is left", policy="repair"),
    mended_case("polygons of other images left out", all_of(segmentation=_OUT), "101", "outside",
                "no object is left", policy="skip"),
    mended_case("run lengths of another size",
                all_of(segmentation={"size": [16, 16], "counts": [256]}),
                "[16, 16]", "no object is left", policy="repair"),
    mended_case("crowds that are left alone", lambda d: all_of(category_id=99)(
                {"annotations": d["annotations"][:3]}), "99", "no object is left", policy="repair"),
    mended_case("a class name twice, both used", _twin, "'cell' occurs twice", "[3, 7]", "rename",
                policy="repair"),
    mended_case("no images to repair", lambda d: d.update(images=[]), "no image",
                policy="repair"),
    mended_case("ids of images that are integers and texts", _mixed, "'13'", "not an integer",
                "integer id"),
    mended_case("an image id as empty text", lambda d: d["images"][0].update(id=""), "integer id"),
    Case("repair", "a policy that does not exist", _with("--bad-data", "mend"), ("repair",)),
    Case("repair", "a file that is cut off",
         lambda f: [*scored(f, json.dumps(sets.truth())[:99]), "--bad-data", "repair"],
         ("truth.json", "not valid JSON")),
    Case("repair", "a table of bags",
         lambda f: ["evaluate", "mil", "--predictions", f / "b.csv", "--bad-data", "repair"],
         ("repair", "skip")),
    Case("repair", "a conversion of which nothing is left", _converted("repair"),
         ("instances_train.json", "outside", "no object is left")),
    Case("repair", "a conversion that skips everything", _converted("skip"),
         ("instances_train.json", "outside", "no object is left")),
]  # fmt: skip


def checked_case(
    name: str, change: Callable[[Path], object], *expected: str, words: tuple[object, ...] = ()
) -> Case:
    """Change a valid COCO folder, then check it as it is named by ``--data.root`` alone."""
    build = yolo.coco_words(change)
    return Case("foreign set", name, lambda f: ["evaluate", "check-data", *build(f), *words],
                expected)  # fmt: skip


def yolo_case(
    name: str, change: Callable[[Path], object], *expected: str, words: tuple[object, ...] = ()
) -> Case:
    """Change a valid YOLO folder, then check it."""

    def build(folder: Path) -> list[object]:
        change(yolo.write_yolo(folder))
        recipe = ["--config", "configs/quickstart/mask_rcnn.yaml"]
        recipe += ["--config", "configs/_base/data/yolo_txt.yaml"]
        return ["evaluate", "check-data", *recipe, "--data.root", folder, *words]

    return Case("foreign set", name, build, expected)


def edited(split: str, change: Change) -> Callable[[Path], object]:
    def written(root: Path) -> None:
        data = sets.truth()
        change(data)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(data))

    return written


def roboflow(root: Path, change: Change = lambda _: None) -> None:
    """Move a set into Roboflow's layout; its validation file is changed."""
    for split, name in (("train", "train"), ("val", "valid")):
        (root / "images" / split).rename(root / name)
        data = sets.truth()
        group = {"id": 0, "name": "cells", "supercategory": "none"}
        data["categories"] = [group, *(c | {"supercategory": "cells"} for c in data["categories"])]
        if split == "val":
            change(data)
        (root / name / "_annotations.coco.json").write_text(json.dumps(data))
    shutil.rmtree(root / "images")
    shutil.rmtree(root / "annotations")


def roboflow_with(change: Change) -> Callable[[Path], object]:
    return lambda root: roboflow(root, change)


def _two_layouts(root: Path) -> None:
    shutil.copytree(root / "images/train", root / "train2017")
    file = root / "annotations/instances_train.json"
    shutil.copy(file, root / "annotations/instances_train2017.json")


def _deeper(root: Path) -> None:
    (root / "export").mkdir()
    for name in ("images", "annotations"):
        (root / name).rename(root / "export" / name)


def _nothing(root: Path) -> None:
    for name in ("images", "annotations"):
        shutil.rmtree(root / name)


def _yolo_instead(root: Path) -> None:
    _nothing(root)
    yolo.write_yolo(root)


def _bare(root: Path) -> None:
    (root / "data.yaml").unlink()


def _two_files(root: Path) -> None:
    for name in ("one.yaml", "two.yml"):
        shutil.copy(root / "data.yaml", root / name)
    _bare(root)


def _both_orders(root: Path) -> None:
    _bare(root)
    for kind in ("images", "labels"):
        shutil.copytree(root / kind / "train", root / "train" / kind)


def _lost(root: Path) -> None:
    _bare(root)
    shutil.rmtree(root / "labels")


def _pixels(root: Path) -> None:
    for file in (root / "labels/train").iterdir():
        file.write_text("0 4 4 16 4 16 16 4 16\n")


def without_test(root: Path) -> None:
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(f"{text}test: ../test/images\n")


def _tested(folder: Path) -> list[object]:
    without_test(yolo.write_yolo(folder))
    words = [str(word).replace("data/coco.yaml", "data/yolo_txt.yaml") for word in sets.COCO]
    return ["train", "test", *words[2:], "--data.root", folder]


def _exported(change: Change) -> Callable[[Path], list[object]]:
    """Read the training file by converting it."""

    def build(folder: Path) -> list[object]:
        root = sets.write_coco(folder)
        data = sets.truth()
        change(data)
        file = root / "annotations/instances_train.json"
        file.write_text(json.dumps(data))
        where = ["--annotations", file, "--images", root / "images/train", "--out", root / "yolo"]
        return ["evaluate", "convert", "--from", "coco", "--to", "yolo", *where]

    return build


def _without_masks(data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        del annotation["segmentation"]


def _without_val(folder: Path) -> list[object]:
    root = sets.write_coco(folder)
    (root / "annotations/instances_val.json").unlink()
    return [*sets.COCO, "--data.root", root]


def _placeholder(folder: Path) -> list[object]:
    """Name the YAML file of a set whose images are elsewhere, and a root that does not exist."""
    root = yolo.write_yolo(folder)
    (root / "images").rename(root / "pictures")
    recipe = ["--config", "configs/quickstart/mask_rcnn.yaml"]
    recipe += ["--config", "configs/_base/data/yolo_txt.yaml"]
    named = ["--data.data_yaml", root / "data.yaml", "--data.root", root / "nowhere"]
    return ["evaluate", "check-data", *recipe, *named]


_FRACTIONS = [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]
_NO_OBJECT = "has an object: nothing can be"
FOREIGN = [
    checked_case("no object in training", edited("train", lambda d: d.update(annotations=[])),
                 "instances_train.json", f"no image of train {_NO_OBJECT} learnt"),
    checked_case("no object in validation", edited("val", lambda d: d.update(annotations=[])),
                 "instances_val.json", f"no image of val {_NO_OBJECT} scored"),
    checked_case("training that skipping empties", edited("train", all_of(segmentation=_OUT)),
                 "instances_train.json", "no object is left", words=("--data.bad_data", "skip")),
    checked_case("validation that skipping empties", edited("val", all_of(category_id=99)),
                 "instances_val.json", "no object is left", words=("--data.bad_data", "skip")),
    checked_case("validation that repair empties", edited("val", all_of(segmentation=_OUT)),
                 "instances_val.json", "no object is left", words=("--data.bad_data", "repair")),
    checked_case("a root that is missing", shutil.rmtree, "data.root", "there is no folder",
                 "correct the path"),
    checked_case("a root one level too high", _deeper, "data.root", "did you mean", "export"),
    Case("foreign set", "a root one level too low",
         lambda f: ["evaluate", "check-data", *yolo.coco_words(lambda _: None)(f), "--data.root",
                    f / "annotations"],
         ("data.root", "did you mean")),
    checked_case("a root with nothing in it", _nothing, "instances_train.json",
                 "instances_train2017.json", "train/_annotations.coco.json",
                 "data.train_annotations"),
    checked_case("two layouts in one root", _two_layouts, "2 layouts", "instances_train.json",
                 "instances_train2017.json", "data.train_annotations"),
    checked_case("a YOLO set taken for COCO", _yolo_instead, "data.root", "yolo_txt.yaml"),
    checked_case("Roboflow with another class for validation",
                 roboflow_with(lambda d: d["categories"][1].update(name="nucleus")),
                 "nucleus", "'cell'", "same ids and names"),
    checked_case("Roboflow with a group that validation uses",
                 roboflow_with(first(category_id=0)), "'cells'", "absent"),
    checked_case("Roboflow with an image that is missing",
                 lambda r: (roboflow(r), (r / "valid/12.png").unlink()), "12.png", "missing"),
    Case("foreign set", "boxes without masks", _exported(_without_masks),
         ("none of the 4 annotations has a mask", "export polygons")),
    Case("foreign set", "polygons as fractions", _exported(all_of(segmentation=_FRACTIONS)),
         ("between 0 and 1", "multiply x by the width")),
    Case("foreign set", "polygons as points",
         _exported(first(segmentation=[[[4, 4], [16, 4], [16, 16]]])),
         ("101", "list of points [x, y]", "one list")),
    Case("foreign set", "no validation split", _without_val,
         ("there is no val split", "instances_val.json", "data.val_annotations"), long=True),
    Case("foreign set", "images of a YOLO set that are elsewhere", _placeholder,
         ("data.yaml", "images/train", "data.root")),
    yolo_case("a YOLO root with nothing in it", lambda r: (_bare(r), shutil.rmtree(r / "images")),
              "data.yaml", "images/train and labels/train", "data.root"),
    yolo_case("YOLO folders without labels", _lost, "data.yaml", "labels/train"),
    yolo_case("two files that declare a YOLO set", _two_files, "one.yaml", "two.yml",
              "data.data_yaml"),
    yolo_case("two layouts of a YOLO set", _both_orders, "images/train", "train/images",
              "data.yaml"),
    yolo_case("polygons of a YOLO set that reach out",
              lambda r: (r / "labels/train/11.txt").write_text("0 .5 .5 1.5 .5 1.5 .9 .5 .9\n"),
              "11.txt", "outside 0 to 1", "or use bad_data: repair"),
    yolo_case("pixels in a YOLO set, repaired", _pixels, "train", "no object of train is left",
              words=("--data.bad_data", "repair")),
    yolo_case("a YOLO set without an object in validation",
              lambda r: [f.write_text("") for f in (r / "labels/val").iterdir()],
              "data.yaml", f"no image of val {_NO_OBJECT} scored"),
    Case("foreign set", "a test split that is declared and missing", _tested,
         ("data.yaml", "../test/images", "correct it"), long=True),
]  # fmt: skip

CASES = [*REPAIR, *FOREIGN]
