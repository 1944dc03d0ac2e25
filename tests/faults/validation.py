"""Trainings whose validation never comes, and validation images that cannot be held out."""

from collections.abc import Callable
from pathlib import Path

from tests.faults import sets
from tests.faults.case import Case

_BRIEF = ["--trainer.max_epochs", 1, *sets.CPU]
_COCO = [word for word in sets.COCO if word not in sets.ONE_STEP[:2]]
_BAGS = [word for word in sets.MIL if word not in sets.ONE_STEP[:2]]


def _digits(name: str, words: list[object], *expected: str) -> Case:
    recipe = ["train", "fit", "--config", "configs/quickstart/abmil.yaml", *sets.CPU]
    bags = ["--data.train_bags", 40, "--data.val_bags", 8]
    return Case("validation", name, lambda _: [*recipe, *bags, *words], expected)


def _bags(name: str, words: list[object], *expected: str) -> Case:
    def build(folder: Path) -> list[object]:
        return [*_BAGS, "--data.file", sets.write_bags(folder / "bags.npz"), *_BRIEF, *words]

    return Case("validation", name, build, expected)


def _images(
    name: str, words: Callable[[Path], list[object]], *expected: str, val: bool = False
) -> Case:
    """Train on a COCO folder, whose validation split is removed unless ``val``."""

    def build(folder: Path) -> list[object]:
        root = sets.write_coco(folder)
        if not val:
            (root / "annotations" / "instances_val.json").unlink()
        return [*_COCO, *words(root), *_BRIEF]

    return Case("validation", name, build, expected)


def _root(*words: object) -> Callable[[Path], list[object]]:
    return lambda root: ["--data.root", root, *words]


def _one_file(root: Path) -> list[object]:
    file, images = root / "annotations" / "instances_train.json", root / "images" / "train"
    return ["--data.train_annotations", file, "--data.train_images", images]


CASES = [
    _digits("none before the end", ["--trainer.check_val_every_n_epoch", 30],
            "the training ends after 125 steps", "after step 150", "check_val_every_n_epoch 30",
            "val/bag_auroc", "--checkpoint.save_top_k 0"),
    _digits("fewer steps than an epoch", ["--trainer.max_steps", 3],
            "the training ends after 3 steps", "after step 5", "an epoch has 5 steps"),
    _digits("counted in steps", ["--trainer.max_steps", 30, "--trainer.val_check_interval", 40,
            "--trainer.check_val_every_n_epoch", "null"], "after 30 steps", "after step 40"),
    _bags("no bags", ["--data.val_fraction", 0], "there are no validation bags",
            "data.val_fraction"),
    _images("no split", _root(), "there is no val split", "instances_val.json",
            "data.val_fraction 0.2"),
    _images("one file", _one_file, "there is no val split", "data.val_annotations",
            "data.val_fraction 0.2"),
    _images("a share above 1", _root("--data.val_fraction", 20), "val_fraction", "(0, 1)"),
    _images("a share of no image", _root("--data.val_fraction", 0.01), "is no image", "raise it"),
    _images("a share beside a split", _root("--data.val_fraction", 0.2), "instances_val.json",
            "leave data.val_fraction out", val=True),
]  # fmt: skip
