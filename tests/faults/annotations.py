"""Broken COCO annotation files, and annotations that do not fit their images."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.faults import sets
from tests.faults.case import Case

Change = Callable[[dict[str, Any]], object]
_IMAGE = sets.truth()["images"][0]


def scored(folder: Path, content: bytes | str | dict[str, Any] | None = None) -> list[object]:
    """Score sound predictions on ``truth.json``, which is written unless it exists."""
    file, predictions = folder / "truth.json", folder / "predictions.json"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    predictions.write_text(json.dumps(sets.results()))
    return ["evaluate", "coco", "--annotations", file, "--predictions", predictions]


def file_case(name: str, content: bytes | str, *expected: str) -> Case:
    return Case("annotations", name, lambda folder: scored(folder, content),
                ("truth.json", *expected))  # fmt: skip


def record_case(name: str, change: Change, *expected: str) -> Case:
    """Break one record of a valid file and score with it."""

    def build(folder: Path) -> list[object]:
        data = sets.truth()
        change(data)
        return scored(folder, data)

    return Case("annotations", name, build, ("truth.json", *expected))


def set_case(
    name: str,
    change: Callable[[Path, dict[str, Any]], object],
    *expected: str,
    fit: bool = False,
) -> Case:
    """Break the training file of a COCO folder, or another file; convert it or train on it."""

    def build(folder: Path) -> list[object]:
        sets.write_coco(folder)
        data = sets.truth()
        change(folder, data)
        file = folder / "annotations/instances_train.json"
        file.write_text(json.dumps(data))
        return [*sets.COCO, "--data.root", folder] if fit else converted(folder, file)

    return Case("annotations", name, build, expected, long=fit)


def converted(folder: Path, file: Path) -> list[object]:
    """Read images and annotations as in training, in a tenth of the time."""
    where = ["--annotations", file, "--images", folder / "images/train", "--out", folder / "yolo"]
    return ["evaluate", "convert", "--from", "coco", "--to", "yolo", *where, "--skip-crowds"]


def image(**changes: Any) -> Change:
    return lambda data: data["images"][0].update(changes)


def annotation(**changes: Any) -> Change:
    return lambda data: data["annotations"][0].update(changes)


def category(**changes: Any) -> Change:
    return lambda data: data["categories"][0].update(changes)


def without(section: str, key: str) -> Change:
    return lambda data: data[section][0].pop(key)


def mask(**changes: Any) -> Change:
    return lambda data: data["annotations"][1]["segmentation"].update(changes)


def polygon(*numbers: Any) -> Change:
    return annotation(segmentation=[list(numbers)])


_TEXT = json.dumps(sets.truth())


def _loop(folder: Path) -> list[object]:
    (folder / "truth.json").symlink_to("truth.json")
    return scored(folder)


def _directory(folder: Path) -> list[object]:
    (folder / "truth.json").mkdir()
    return scored(folder)


FILES = [
    Case("annotations", "missing file", scored, ("truth.json", "no such file", "give the path")),
    Case("annotations", "a folder", _directory, ("truth.json", "give the path")),
    Case("annotations", "a link to itself", _loop, ("truth.json", "give the path")),
    file_case("empty file", "", "not valid JSON", "export"),
    file_case("blanks only", " \n\t ", "not valid JSON"),
    file_case("cut in half", _TEXT[: len(_TEXT) // 2], "not valid JSON"),
    file_case("cut after the first list", _TEXT[: _TEXT.index('"annotations"')], "not valid JSON"),
    file_case("last bracket lost", _TEXT[:-1], "not valid JSON"),
    file_case("zeros from a full disk", bytes(4096), "not valid JSON"),
    file_case("gzip under the name of json", gzip.compress(_TEXT.encode()), "not valid JSON"),
    file_case("Latin-1 text", _TEXT.replace("cell", "c\u00e9ll").encode("latin-1"), "JSON"),
    file_case("trailing comma", _TEXT[:-1] + ",}", "not valid JSON"),
    file_case("Python text with single quotes", str(sets.truth()), "not valid JSON"),
    file_case("two documents", _TEXT + _TEXT, "not valid JSON"),
    file_case("JSON lines", "\n".join(map(json.dumps, sets.truth()["images"])), "not valid JSON"),
    file_case("a hundred thousand brackets", "[" * 100_000, "not valid JSON"),
    file_case("a hundred thousand objects", '{"a":' * 100_000 + "1" + "}" * 100_000, "JSON"),
    file_case("an integer of 5000 digits", '{"images": [' + "9" * 5000 + "]}", "not valid JSON"),
    file_case("null", "null", "images", "annotations", "categories"),
    file_case("a number", "3", "images"),
    file_case("a text", '"images annotations categories"', "images"),
    file_case("a list of records", json.dumps(sets.truth()["annotations"]), "images"),
    file_case("predictions", json.dumps(sets.results()), "images"),
    file_case("an image", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "JSON"),
]

RECORDS = [
    record_case("no list of images", lambda d: d.pop("images"), "images"),
    record_case("no list of annotations", lambda d: d.pop("annotations"), "annotations"),
    record_case("no list of categories", lambda d: d.pop("categories"), "categories"),
    record_case("images as an object", lambda d: d.update(images={"11": _IMAGE}), "images"),
    record_case("annotations null", lambda d: d.update(annotations=None), "annotations"),
    record_case("no category declared", lambda d: d.update(categories=[]), "no category"),
    record_case("no image listed", lambda d: d.update(images=[]), "no image"),
    record_case("an image as a name", lambda d: d.update(images=["11.png"]), "image number 0"),
    record_case("an image without id", without("images", "id"), "lacks id"),
    record_case("an image without height", without("images", "height"), "lacks height", "11"),
    record_case("an image id as text", image(id="11"), "'11'", "integer id"),
    record_case("an image id with a fraction", image(id=11.5), "11.5", "integer id"),
    record_case("an image id null", image(id=None), "none", "integer id"),
    record_case("an image id true", image(id=True), "true", "integer id"),
    record_case("an image id of 70 bits", image(id=2**70), str(2**70), "integer id"),
    record_case("an image id as a list", image(id=[11]), "[11]", "integer id"),
    record_case("the same image id twice", image(id=12), "12 occurs twice", "renumber"),
    record_case("height 0", image(height=0), "image 11", "height and width"),
    record_case("height negative", image(height=-32), "image 11", "-32"),
    record_case("height with a fraction", image(height=31.5), "image 11", "31.5"),
    record_case("height as text", image(height="32"), "image 11", "'32'"),
    record_case("height infinite", image(height=float("inf")), "image 11", "inf"),
    record_case("height NaN", image(height=float("nan")), "image 11", "nan"),
    record_case("height of 30 digits", image(height=10**30), "image 11", str(10**30)),
    record_case("an annotation as a number", lambda d: d["annotations"].append(5),
                "annotation number 4"),
    record_case("an annotation without id", without("annotations", "id"), "lacks id"),
    record_case("an annotation without image", without("annotations", "image_id"),
                "lacks image_id", "101"),
    record_case("an annotation without category", without("annotations", "category_id"),
                "lacks category_id", "101"),
    record_case("an annotation id as text", annotation(id="101"), "'101'", "integer id"),
    record_case("an annotation id with a fraction", annotation(id=1.5), "1.5", "integer id"),
    record_case("the same annotation id twice", annotation(id=102), "102 occurs twice"),
    record_case("an unknown image", annotation(image_id=99), "99", "101", "no such image"),
    record_case("an image named as text", annotation(image_id="11"), "101", "no such image"),
    record_case("an image named by a list", annotation(image_id=[11]), "101", "no such image"),
    record_case("an image named by null", annotation(image_id=None), "101", "no such image"),
    record_case("an unknown category", annotation(category_id=4), "101", "category 4", "declare"),
    record_case("labels from 0", annotation(category_id=0), "101", "category 0", "known are"),
    record_case("a category as text", annotation(category_id="3"), "101", "declare"),
    record_case("a category as an object", annotation(category_id={"id": 3}), "101", "declare"),
    record_case("a box of three numbers", annotation(bbox=[4, 4, 12]), "annotation 101", "bbox"),
    record_case("a box of five numbers", annotation(bbox=[4, 4, 12, 12, 0]), "101", "bbox"),
    record_case("a box as text", annotation(bbox="4 4 12 12"), "101", "bbox"),
    record_case("a box null", annotation(bbox=None), "101", "bbox"),
    record_case("a box of texts", annotation(bbox=["4", "4", "12", "12"]), "101", "bbox"),
    record_case("a box of lists", annotation(bbox=[[4, 4], [12, 12], 1, 1]), "101", "bbox"),
    record_case("a box with NaN", annotation(bbox=[4, 4, float("nan"), 12]), "101", "bbox"),
    record_case("a box of 400 digits", annotation(bbox=[4, 4, 10**400, 12]), "101", "bbox"),
    record_case("a box of negative width", annotation(bbox=[16, 4, -12, 12]), "101", "no area"),
    record_case("a box without area", annotation(bbox=[4, 4, 0, 0]), "101", "no area"),
    record_case("corners instead of sides", annotation(bbox=[20, 20, 31, 31]), "101", "outside",
                "width, height"),
    record_case("a box outside its image", annotation(bbox=[40, 4, 8, 8]), "101", "outside"),
    record_case("an area as text", annotation(area="144"), "101", "area"),
    record_case("an area negative", annotation(area=-144), "101", "area"),
    record_case("an area infinite", annotation(area=float("inf")), "101", "area"),
    record_case("iscrowd 2", annotation(iscrowd=2), "101", "iscrowd", "0 or 1"),
    record_case("iscrowd as text", annotation(iscrowd="no"), "101", "iscrowd"),
    record_case("iscrowd as a list", annotation(iscrowd=[0]), "101", "iscrowd"),
    record_case("a polygon of two points", polygon(4, 4, 16, 16), "101", "3 points", "redraw"),
    record_case("a polygon of odd length", polygon(4, 4, 16, 4, 16, 16, 4), "101", "pairs"),
    record_case("a polygon with text", polygon(4, 4, 16, 4, 16, "b"), "101", "number"),
    record_case("a polygon with NaN", polygon(4, 4, 16, 4, 16, float("nan")), "101", "finite"),
    record_case("a polygon with null", polygon(4, 4, 16, 4, 16, None), "101", "number"),
    record_case("a polygon of points",
                polygon([4, 4], [16, 4], [16, 16], [4, 16], [4, 8], [4, 6]), "101", "number"),
    record_case("a polygon without a list around it",
                annotation(segmentation=[4, 4, 16, 4, 16, 16]), "101", "polygon"),
    record_case("a polygon of another image", polygon(40, 40, 60, 40, 60, 60), "101", "outside"),
    record_case("a polygon in fractions of the side", polygon(-9, -9, -8, -9, -8, -8), "101",
                "outside"),
    record_case("an empty polygon", annotation(segmentation=[[]]), "101", "polygon"),
    record_case("a segmentation as text", annotation(segmentation="4 4 16 4"), "101",
                "segmentation"),
    record_case("a mask of another size", mask(size=[16, 16]), "102", "[16, 16]", "[32, 32]"),
    record_case("a mask of swapped type", mask(size="32x32"), "102", "size"),
    record_case("a mask without size", lambda d: d["annotations"][1]["segmentation"].pop("size"),
                "102", "size and counts"),
    record_case("a mask without counts", mask(counts=None), "102", "run lengths"),
    record_case("runs too short", mask(counts=[128, 64]), "102", "192 of 1024"),
    record_case("runs too long", mask(counts=[128, 64, 900]), "102", "1092 of 1024"),
    record_case("runs negative", mask(counts=[-1, 65, 960]), "102", "run lengths"),
    record_case("runs with fractions", mask(counts=[128.5, 64, 831.5]), "102", "run lengths"),
    record_case("runs of 30 digits", mask(counts=[10**30]), "102", "run lengths"),
    record_case("runs as broken text", mask(counts="\x7f\x7f"), "102"),
    record_case("runs as text cut short", mask(counts="PP1R"), "102"),
    record_case("runs as text beyond ASCII", mask(counts="ééé"), "102"),
    record_case("runs as an object", mask(counts={"0": 1024}), "102", "run lengths"),
    record_case("a category as a name", lambda d: d.update(categories=["cell"]),
                "category number 0"),
    record_case("a category without name", without("categories", "name"), "lacks name", "3"),
    record_case("a category id as text", category(id="3"), "'3'", "integer id"),
    record_case("the same category id twice", category(id=7), "7 occurs twice", "renumber"),
    record_case("the same category name twice", category(name="dot"), "'dot' occurs twice",
                "rename"),
]  # fmt: skip


def _of_crowds(_: Path, data: dict[str, Any]) -> None:
    for record in data["annotations"]:
        record.update(iscrowd=1, segmentation=data["annotations"][1]["segmentation"])


def _renamed(folder: Path, _: dict[str, Any]) -> None:
    other = sets.truth()
    other["categories"][0]["name"] = "nucleus"
    (folder / "annotations/instances_val.json").write_text(json.dumps(other))


def _turned(folder: Path, data: dict[str, Any]) -> None:
    tags = Image.Exif()
    tags[274] = 6
    Image.new("RGB", (20, 32)).save(folder / "images/train/11.jpg", exif=tags)
    data["images"][0].update(file_name="11.jpg", height=32, width=20)
    data["annotations"] = data["annotations"][2:]


def _bomb(folder: Path, _: dict[str, Any]) -> None:
    file = folder / "images/train/11.png"
    content = bytearray(file.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2  # a header of 3.6 thousand million pixels
    file.write_bytes(content)


def _image(content: bytes) -> Callable[[Path, dict[str, Any]], object]:
    return lambda folder, _: (folder / "images/train/11.png").write_bytes(content)


def _as_folder(folder: Path, _: dict[str, Any]) -> None:
    (folder / "images/train/11.png").unlink()
    (folder / "images/train/11.png").mkdir()


def _lost_folder(folder: Path, _: dict[str, Any]) -> None:
    shutil.rmtree(folder / "images/train")


def _of_other_size(folder: Path, _: dict[str, Any]) -> None:
    Image.new("RGB", (31, 32)).save(folder / "images/train/11.png")


SETS = [
    set_case("an image without file_name", lambda _, d: d["images"][0].pop("file_name"),
             "instances_train.json", "file_name", fit=True),
    set_case("file_name null", lambda _, d: d["images"][0].update(file_name=None),
             "instances_train.json", "image 11", "file_name"),
    set_case("file_name with a zero byte", lambda _, d: d["images"][0].update(file_name="a\0.png"),
             "instances_train.json", "image 11", "file_name"),
    set_case("file_name of 900 letters", lambda _, d: d["images"][0].update(file_name="a" * 900),
             "instances_train.json", "image 11"),
    set_case("an annotation without mask", lambda _, d: d["annotations"][0].pop("segmentation"),
             "instances_train.json", "101", "segmentation"),
    set_case("an empty list of polygons", lambda _, d: d["annotations"][0].update(segmentation=[]),
             "instances_train.json", "101", "no polygon"),
    set_case("a mask null", lambda _, d: d["annotations"][0].update(segmentation=None),
             "instances_train.json", "101", "segmentation"),
    set_case("crowds only", _of_crowds, "instances_train.json", "crowds", "iscrowd 0", fit=True),
    set_case("other names for validation", _renamed, "instances_val.json", "nucleus", "cell",
             fit=True),
    set_case("no images", lambda f, _: shutil.rmtree(f / "images"), "images", "check",
             fit=True),
    set_case("an image is missing", lambda f, _: (f / "images/train/12.png").unlink(), "12.png",
             "missing", "add the file", fit=True),
    set_case("the image folder is missing", _lost_folder, "images/train", "check the path"),
    set_case("an image of another size", _of_other_size, "11.png", "31", "image 11"),
    set_case("an image turned by EXIF, its objects not", _turned, "image 11", "EXIF"),
    set_case("an image of zero bytes", _image(b""), "11.png"),
    set_case("an image that is text", _image(b"<html>not found</html>"), "11.png"),
    set_case("an image that is a folder", _as_folder, "11.png"),
    set_case("a header of 3.6 thousand million pixels", _bomb, "11.png"),
]  # fmt: skip

CASES = [*FILES, *RECORDS, *SETS]
