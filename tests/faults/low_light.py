"""Wrong options of low light, in recipes and in the commands that score checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.faults import sets
from tests.faults.case import Case


def trained(options: str) -> Callable[[Path], list[object]]:
    """Return a builder of a training on digit scenes with the options."""

    def build(folder: Path) -> list[object]:
        del folder
        return [*sets.SEG, "--data.low_light", options, *sets.ONE_STEP]

    return build


def scoring(command: str, *words: object, source: bool = True) -> Callable[[Path], list[object]]:
    """Return a builder of a valid data set and a command with a checkpoint and the words."""

    def build(folder: Path) -> list[object]:
        root = sets.write_coco(folder)
        files = ["--annotations", root / "annotations/instances_val.json"]
        files += ["--images", root / "images/val"]
        files += ["--ckpt", sets.seg_checkpoint()] if source else []
        return ["evaluate", command, *files, *words]

    return build


def _twice(folder: Path) -> list[object]:
    words = scoring("low-light")(folder)
    return [*words, sets.seg_checkpoint()]


def _of_predictions(folder: Path) -> list[object]:
    words = scoring("coco", "--light", "dark", source=False)(folder)
    return [*words, "--predictions", folder / "found.json"]


def option(name: str, options: str, *expected: str) -> Case:
    return Case("low light", name, trained(options), expected, long=True)


_LIS = ["--config", "configs/_base/data/lis.yaml", "--data.root"]


def _without_folders(folder: Path) -> list[object]:
    (folder / "RAW-dark" / "JPEGImages").mkdir(parents=True)
    return [*sets.SEG, *_LIS, folder, *sets.ONE_STEP]


def _without_categories(folder: Path) -> list[object]:
    """Write the records of another data set under the names of LIS."""
    (folder / "annotations").mkdir()
    for light in ("dark", "normal"):
        sets.write_images(folder / f"RAW-{light}" / "JPEGImages")
    for part in ("train", "test"):
        file = folder / "annotations" / f"lis_coco_png_{part}+1.json"
        file.write_text(json.dumps(sets.truth()))
    return [*sets.SEG, *_LIS, folder, *sets.ONE_STEP]


CASES = [
    Case("low light", "LIS without folders", _without_folders,
         ("lacks RAW-normal", "give the folder LIS")),
    Case("low light", "LIS with other categories", _without_categories,
         ("lis_coco_png_train+1.json", "not of LIS", "bicycle")),
    option("an unknown camera", "{camera: phone}", "camera", "phone", "canon_5d4"),
    option("an unknown input", "{input: raw5}", "input", "raw5", "raw4"),
    option("seven bits", "{bits: 7}", "bits", "from 8 to 14", "got 7"),
    option("a ratio below one", "{ratio: [0.5, 10]}", "ratio", "at least 1", "[0.5, 10"),
    option("a falling ratio", "{ratio: [100, 10]}", "ratio", "not falling"),
    option("one ratio", "{ratio: 10}", "ratio"),
    option("an unknown option", "{brightness: 3}", "low_light", "brightness"),
    option("compat with srgb", "{physics: compat, input: srgb}", "needs input raw3"),
    Case("low light", "seven bits scored", scoring("low-light", "--bits", 7), ("8 to 14", "got 7")),
    Case("low light", "a ratio below one scored", scoring("low-light", "--ratios", "0.5"),
         ("at least 1", "got 0.5")),
    Case("low light", "a checkpoint twice", _twice, ("given twice",)),
    Case("low light", "no checkpoint", scoring("low-light", "--ckpt", "none.ckpt", source=False),
         ("none.ckpt", "no such file")),
    Case("low light", "a figure of a wrong kind", scoring("low-light", "--figure", "a.txt"),
         ("a.txt", ".png")),
    Case("low light", "light of a results file", _of_predictions, ("--light", "give --ckpt")),
    Case("low light", "light misspelt", scoring("coco", "--light", "dim"), ("dim", "dark")),
]  # fmt: skip
