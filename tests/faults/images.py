"""Images that EXIF turns, that are too large or that have several pages."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.faults import annotations, sets, yolo
from tests.faults.case import Case

Change = Callable[[Path], object]


def write_turned(
    file: Path, orientation: int = 6, width: int = 20, height: int = 32, **options: Any
) -> None:
    """Write an image with an EXIF orientation."""
    tags = Image.Exif()
    tags[274] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, exif=tags, **options)


def state(root: Path, height: int, width: int, orientation: int = 6) -> Path:
    """Replace the first training image of a COCO folder by a turned one; state its size."""
    write_turned(root / "images/train/11.jpg", orientation)
    file = root / "annotations/instances_train.json"
    data = json.loads(file.read_text())
    data["images"][0].update(file_name="11.jpg", height=height, width=width)
    data["annotations"] = data["annotations"][2:]
    file.write_text(json.dumps(data))
    return file


def fit_case(name: str, flags: list[object], *expected: str, change: Change | None = None) -> Case:
    """Train on a COCO folder."""

    def build(folder: Path) -> list[object]:
        root = sets.write_coco(folder)
        if change is not None:
            change(root)
        return [*sets.COCO, "--data.root", root, *flags]

    return Case("images", name, build, expected, long=True)


def yolo_case(name: str, flags: list[object], *expected: str, change: Change) -> Case:
    """Train on a YOLO set."""

    def build(folder: Path) -> list[object]:
        change(yolo.write_yolo(folder))
        words = [str(word).replace("data/coco.yaml", "data/yolo_txt.yaml") for word in sets.COCO]
        return [*words, "--data.root", folder, *flags]

    return Case("images", name, build, expected, long=True)


def predict_case(name: str, change: Change, flags: list[object], *expected: str) -> Case:
    """Predict the images of a folder."""

    def build(folder: Path) -> list[object]:
        sets.write_images(folder / "photos")
        change(folder / "photos")
        where = ["--ckpt_path", sets.seg_checkpoint(), "--data", folder / "photos"]
        return ["train", "predict", *where, *sets.CPU, *flags]

    return Case("images", name, build, expected)


def convert_case(name: str, orientation: int, height: int, width: int, *expected: str) -> Case:
    """Convert a COCO set with a turned image."""

    def build(folder: Path) -> list[object]:
        file = state(sets.write_coco(folder), height, width, orientation)
        return annotations.converted(folder, file)

    return Case("images", name, build, expected)


def _turned(folder: Path) -> None:
    write_turned(folder / "phone.jpg")


def _large(folder: Path) -> None:
    Image.new("1", (16000, 13000)).save(folder / "large.png")


def _lying_header(folder: Path) -> None:
    file = folder / "11.png"
    content = bytearray(file.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)


def _pages(folder: Path) -> None:
    pages = [Image.new("RGB", (32, 32), (n, n, n)) for n in range(3)]
    file = folder / "pages.tif"
    pages[0].save(file, save_all=True, append_images=pages[1:], compression="tiff_lzw")
    content = bytearray(file.read_bytes())
    content[8:200] = b"\xff" * 192
    file.write_bytes(content)


def _float_pages(folder: Path) -> None:
    pages = [Image.fromarray(np.ones((8, 8), dtype=np.float32)) for _ in range(2)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])


def _scored(folder: Path) -> list[object]:
    sets.write_coco(folder)
    write_turned(folder / "images/train/11.png", width=18)
    file = folder / "annotations/instances_train.json"
    (folder / "found.json").write_text(json.dumps(sets.results()))
    where = ["--annotations", file, "--images", folder / "images/train"]
    return ["evaluate", "coco", *where, "--predictions", folder / "found.json"]


_EXIF = "--data.exif"
_LIMIT = "--data.max_megapixels"
CASES = [
    fit_case("a size that fits neither orientation", [], "11.jpg", "32 px high and 20 px wide",
             "annotate", change=lambda r: state(r, 30, 20)),
    fit_case("turned by order, but stated as stored", [_EXIF, "apply"], "11.jpg",
             "20 px high and 32 px wide as its EXIF orientation shows it", "set exif: ignore",
             change=lambda r: state(r, 32, 20)),
    fit_case("not turned by order, but stated as shown", [_EXIF, "ignore"], "11.jpg",
             "32 px high and 20 px wide", "set exif: apply", change=lambda r: state(r, 20, 32)),
    fit_case("a turned image where none may be", [_EXIF, "error"], "11.jpg", "EXIF orientation 6",
             "save it upright", change=lambda r: state(r, 20, 32)),
    fit_case("a mirrored image where none may be", [_EXIF, "error"], "11.jpg",
             "EXIF orientation 2", change=lambda r: state(r, 32, 20, 2)),
    fit_case("an unknown way of turning", [_EXIF, "sideways"], "exif", "apply", "ignore", "error"),
    fit_case("images above the limit", [_LIMIT, 0.001], "11.png", "0.001024 megapixels",
             "limit of 0.001", _LIMIT),
    fit_case("a limit of nothing", [_LIMIT, 0], "max_megapixels", "positive"),
    fit_case("a limit in words", [_LIMIT, "many"], "max_megapixels", "many"),
    yolo_case("a turned image where none may be, YOLO", [_EXIF, "error"], "14.jpg",
              "EXIF orientation 8", change=lambda r: write_turned(r / "images/train/14.jpg", 8)),
    yolo_case("images above the limit, YOLO", [_LIMIT, 0.0005], "11.png", "limit of 0.0005",
              _LIMIT, change=lambda _: None),
    convert_case("upside down by EXIF", 3, 32, 20, "image 11", "EXIF", "save it upright"),
    convert_case("turned by EXIF, stated as stored", 8, 32, 20, "image 11", "EXIF"),
    predict_case("a photo turned where none may be", _turned, [_EXIF, "error"], "phone.jpg",
                 "EXIF orientation 6", "save it upright"),
    predict_case("208 megapixels above a limit of 100", _large, [_LIMIT, 100], "large.png",
                 "208 megapixels (13000 px high, 16000 px wide)", "limit of 100",
                 "--data.max_megapixels 209"),
    predict_case("a header of 3 600 megapixels", _lying_header, [_LIMIT, 1000], "11.png",
                 "3600 megapixels"),
    predict_case("a file with pages whose first is broken", _pages, [], "pages.tif",
                 "cannot be read"),
    predict_case("a file with pages of real numbers", _float_pages, ["--data.bad_data", "skip",
                 _LIMIT, 0.0001], "11.png", "limit of 0.0001"),
    Case("images", "a turned image of another size is scored", _scored,
         ("11.png", "32 px high and 18 px wide", "annotate")),
]  # fmt: skip
