"""Broken YOLO sets, impossible conversions, and sets that `check-data` rejects."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.faults import bags, features, sets
from tests.faults.case import Case

_YAML = "train: images/train\nval: images/val\nnames: {0: cell, 1: dot}\n"
_HEAD = _YAML.split("names", maxsplit=1)[0]
_LINE = "0 0.125 0.125 0.5 0.125 0.5 0.5 0.125 0.5\n"
_LABELS = {"11": _LINE * 2, "12": _LINE.replace("0 ", "1 ", 1), "13": ""}


def write_yolo(root: Path) -> Path:
    """Write a valid set of three images per split, the last without objects."""
    for split in ("train", "val"):
        sets.write_images(root / "images" / split)
        (root / "labels" / split).mkdir(parents=True)
        for name, text in _LABELS.items():
            (root / "labels" / split / f"{name}.txt").write_text(text)
    (root / "data.yaml").write_text(_YAML)
    return root


def converted(root: Path, *words: object) -> list[object]:
    """Read the training split by converting it."""
    where = ["--data", root / "data.yaml", "--split", "train", "--out", root / "out.json"]
    return ["evaluate", "convert", "--from", "yolo", "--to", "coco", *where, *words]


def set_case(
    name: str, change: Callable[[Path], object], *expected: str, fit: bool = False
) -> Case:
    """Break a valid set, then convert it or train on it."""

    def build(folder: Path) -> list[object]:
        change(write_yolo(folder))
        if not fit:
            return converted(folder)
        words = [str(word).replace("data/coco.yaml", "data/yolo_txt.yaml") for word in sets.COCO]
        return [*words, "--data.root", folder]

    return Case("YOLO set", name, build, expected, long=fit)


def yaml_case(name: str, content: bytes | str, *expected: str) -> Case:
    def change(root: Path) -> None:
        file = root / "data.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    return set_case(name, change, "data.yaml", *expected)


def line_case(name: str, line: bytes | str, *expected: str, number: int = 2) -> Case:
    """Append a line to a valid one."""

    def change(root: Path) -> None:
        content = line if isinstance(line, bytes) else line.encode()
        (root / "labels/train/11.txt").write_bytes(_LINE.encode() + content)

    where = [f"line {number}"] if number else []
    return set_case(name, change, "11.txt", *where, *expected)


def _remove(name: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        place = root / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    return change


def _write(name: str, content: bytes | str) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda root: (root / name).write_bytes(data)


def _twin(root: Path) -> None:
    Image.open(root / "images/train/11.png").save(root / "images/train/11.jpg")


def _turned(root: Path) -> None:
    tags = Image.Exif()
    tags[274] = 3
    Image.new("RGB", (20, 32)).save(root / "images/train/14.jpg", exif=tags)


def _no_labels(root: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(root / "labels" / split)


def _listed(text: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / "data.yaml").write_text(_YAML.replace("images/train", "train.txt"))
        (root / "train.txt").write_text(text)

    return change


YOLO = [
    set_case("no data.yaml", _remove("data.yaml"), "data.yaml", "no such file"),
    yaml_case("an empty data.yaml", "", "names"),
    yaml_case("a tab in data.yaml", _YAML.replace(" ", "\t", 1), "YAML"),
    yaml_case("Latin-1 in data.yaml", _YAML.replace("cell", "c\u00e9ll").encode("latin-1"), "YAML"),
    yaml_case("a list in data.yaml", "- train\n- val\n", "names"),
    yaml_case("no names", _HEAD, "names"),
    yaml_case("names as text", _HEAD + "names: cell\n", "names"),
    yaml_case("names without numbers", _HEAD + "names: {a: cell}\n", "number"),
    yaml_case("a name twice", _YAML.replace("dot", "cell"), "'cell' occurs twice"),
    yaml_case("a name that YAML reads as no", _YAML.replace("dot", "no"), "class 1", "quotes"),
    yaml_case("another number of classes", _YAML + "nc: 3\n", "nc", "2 names"),
    yaml_case("keypoints", _YAML + "kpt_shape: [17, 3]\n", "polygons"),
    yaml_case("no splits", "names: [cell, dot]\n", "train"),
    yaml_case("a split of another name", _YAML.replace("train:", "training:"), "train"),
    yaml_case("a folder that is missing", _YAML.replace("images/train", "images/all"),
              "images/all"),
    yaml_case("a split as number", _YAML.replace("images/train", "3"), "train"),
    set_case("a list of images that is empty", _listed(""), "train.txt", "no image"),
    set_case("a listed image that is missing", _listed("images/train/11.png\nimages/x.png\n"),
             "x.png", "missing"),
    set_case("an image listed twice", _listed("images/train/11.png\n" * 2), "more than once"),
    set_case("a folder without images", lambda r: (shutil.rmtree(r / "images/train"),
             (r / "images/train").mkdir()), "images/train", "no image"),
    set_case("an image that is text", _write("images/train/11.png", "hello"), "11.png"),
    set_case("an image of zero bytes", _write("images/train/11.png", ""), "11.png"),
    set_case("an image turned upside down by EXIF", _turned, "14.jpg", "EXIF"),
    set_case("two images for one label file", _twin, "11.jpg", "rename"),
    set_case("labels without an image", _write("labels/train/99.txt", _LINE), "99"),
    set_case("no label file at all", _no_labels, "label", fit=True),
    set_case("a label file that is binary", _write("labels/train/11.txt", b"\xff\xfe\x00"), "11"),
    set_case("no object to train on", lambda r: [f.write_text("") for f in r.rglob("*.txt")],
             "object", fit=True),
    line_case("an unknown class", _LINE.replace("0 ", "2 ", 1), "class 2", "declare"),
    line_case("a class below 0", "-" + _LINE.replace("0 ", "1 ", 1), "class -1"),
    line_case("a class by name", _LINE.replace("0 ", "cell ", 1), "cell"),
    line_case("a class with a fraction", _LINE.replace("0 ", "0.5 ", 1), "class 0.5"),
    line_case("pixels instead of fractions", "0 4 4 16 4 16 16 4 16\n", "0 to 1", "width"),
    line_case("a coordinate below 0", "0 -0.1 0.1 0.5 0.1 0.5 0.5\n", "-0.1"),
    line_case("a coordinate lost", "0 0.1 0.1 0.5 0.1 0.5\n", "pairs"),
    line_case("two points", "0 0.1 0.1 0.5 0.1 0.5 0.5 0.7\n", "pairs"),
    line_case("one point", "0 0.1 0.1\n", "3 points"),
    line_case("a class alone", "0\n", "3 points"),
    line_case("a box of a detection set", "0 0.5 0.5 0.2 0.2\n", "boxes_as_masks"),
    line_case("a NaN", "0 nan 0.1 0.5 0.1 0.5 0.5\n", "nan"),
    line_case("commas", _LINE.replace(" ", ","), "spaces"),
    line_case("decimal commas", "0 0,1 0,1 0,5 0,1 0,5 0,5\n", "0,1"),
    line_case("UTF-16", _LINE.encode("utf-16"), "plain text", number=0),
]  # fmt: skip


def coco_case(name: str, change: Callable[[Path], Any], *expected: str) -> Case:
    """Break the training file of a COCO folder and convert it; crowds are left out."""

    def build(folder: Path) -> list[object]:
        root = sets.write_coco(folder)
        words = change(root)
        file, images = root / "annotations/instances_train.json", root / "images/train"
        where = ["--annotations", file, "--images", images, "--out", folder / "yolo"]
        skip = ["--skip-crowds"] if words is None else words
        return ["evaluate", "convert", "--from", "coco", "--to", "yolo", *where, *skip]

    return Case("conversion", name, build, expected)


def _named(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        data = sets.truth()
        (root / "images" / "outside.png").write_bytes((root / "images/train/11.png").read_bytes())
        data["images"][0]["file_name"] = name
        (root / "annotations/instances_train.json").write_text(json.dumps(data))

    return change


def _there(root: Path) -> None:
    (root / "yolo/images/train").mkdir(parents=True)
    (root / "yolo/images/train/old.png").touch()


def _other_names(root: Path) -> None:
    write_yolo(root / "yolo")
    shutil.rmtree(root / "yolo/images/train")
    shutil.rmtree(root / "yolo/labels/train")
    text = _YAML.replace("cell", "nucleus").replace("train: images/train\n", "")
    (root / "yolo/data.yaml").write_text(text)


def _words(*words: object) -> Callable[[Path], list[object]]:
    return lambda folder: ["evaluate", "convert", *words, "--out", folder / "out"]


CONVERSIONS = [
    Case("conversion", "the same format", _words("--from", "coco", "--to", "coco"),
         ("two formats",)),
    Case("conversion", "a format that is none", _words("--from", "voc", "--to", "coco"), ("voc",)),
    Case("conversion", "COCO without images",
         _words("--from", "coco", "--to", "yolo", "--annotations", "a.json"), ("--images",)),
    Case("conversion", "YOLO without split",
         _words("--from", "yolo", "--to", "coco", "--data", "data.yaml"), ("--split",)),
    set_case("a split that is not declared", lambda r: (r / "data.yaml").write_text(
             _YAML.replace("train:", "test:")), "data.yaml", "train"),
    coco_case("crowds", lambda _: [], "instances_train.json", "crowds", "--skip-crowds"),
    coco_case("an image is missing", _remove("images/train/12.png"), "12.png", "missing"),
    coco_case("the image folder is missing", _remove("images/train"), "images/train"),
    coco_case("cut in half", lambda r: _cut(r / "annotations/instances_train.json"), "JSON"),
    coco_case("a name that leads out of the folder", _named("../outside.png"), "outside.png",
              "plain name"),
    coco_case("a folder that is not empty", _there, "yolo", "another folder"),
    coco_case("classes of another set", _other_names, "cell", "data.yaml"),
]  # fmt: skip


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def checked_case(name: str, words: Callable[[Path], list[object]], *expected: str) -> Case:
    """Check a recipe with its data."""

    def build(folder: Path) -> list[object]:
        return ["evaluate", "check-data", *words(folder)]

    return Case("check-data", name, build, expected)


def coco_words(change: Callable[[Path], object]) -> Callable[[Path], list[object]]:
    def words(folder: Path) -> list[object]:
        change(sets.write_coco(folder))
        recipe = ["--config", "configs/quickstart/mask_rcnn.yaml"]
        recipe += ["--config", "configs/_base/data/coco.yaml"]
        return [*recipe, "--data.root", folder]

    return words


def _bags(**changes: Any) -> Callable[[Path], list[object]]:
    return lambda folder: [
        "--config", "configs/mil/abmil.yaml", "--data.file",
        sets.write_bags(folder / "bags.npz", **changes),
    ]  # fmt: skip


def _slides(file: str, change: Callable[[Path], object]) -> Callable[[Path], list[object]]:
    def words(folder: Path) -> list[object]:
        table, place = features.write_set(folder)
        change(place / file)
        recipe = ["--config", "configs/mil/abmil_features.yaml"]
        return [*recipe, "--data.table", table, "--data.features", place]

    return words


def _decoded(root: Path) -> None:
    file = root / "images/train/11.png"
    file.write_bytes(file.read_bytes()[:-300])


CHECKS = [
    checked_case("no recipe", lambda _: [], "--config"),
    checked_case("a recipe that is missing", lambda f: ["--config", f / "none.yaml"], "none.yaml"),
    checked_case("an unknown key", lambda _: ["--config", "configs/quickstart/abmil.yaml",
                 "--data.batchsize", 3], "batchsize"),
    checked_case("an unknown network",
                 lambda _: ["--config", "configs/quickstart/abmil.yaml",
                            "--model.init_args.model", "models.mil.ABMill"], "ABMill"),
    checked_case("an image cut short", coco_words(_decoded), "11.png"),
    checked_case("an image is missing", coco_words(_remove("images/val/13.png")), "13.png"),
    checked_case("no annotations", coco_words(_remove("annotations/instances_train.json")),
                 "instances_train.json"),
    checked_case("bags with NaN", _bags(X=bags.edited("X", 3, float("nan"))()["X"]), "NaN"),
    checked_case("bags without labels", _bags(y=None), "y is missing"),
    checked_case("features with NaN", _slides("s2.npy", features.npy(lambda v: v * float("nan"))),
                 "s2", "NaN"),
    checked_case("features cut in half", _slides("s0.h5",
                 lambda f: f.write_bytes(f.read_bytes()[:900])), "s0"),
]  # fmt: skip

CASES = [*YOLO, *CONVERSIONS, *CHECKS]
