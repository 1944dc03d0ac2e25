"""Wrong flags of `predict`, wrong paths of its images, and recipes that are in no folder."""

from pathlib import Path

from tests.faults import sets
from tests.faults.case import Case


def predict_case(name: str, *flags: object, expected: tuple[str, ...]) -> Case:
    """Predict a folder of images; flags follow."""

    def build(folder: Path) -> list[object]:
        images = sets.write_coco(folder) / "images" / "val"
        words = ["train", "predict", "--ckpt_path", sets.seg_checkpoint(), "--data", images]
        return [*words, *flags, *sets.CPU]

    return Case("predict", name, build, expected)


def _score(text: str) -> Case:
    expected = ("--score", "a number from 0 to 1", text)
    return predict_case(f"score {text or 'empty'}", f"--score={text}", expected=expected)


def _overlays(text: str) -> Case:
    expected = ("--overlays", "a number of images, all or none", text)
    return predict_case(f"overlays {text}", "--overlays", text, expected=expected)


def _of_bags(flag: str) -> Case:
    def build(folder: Path) -> list[object]:
        bags = sets.write_bags(folder / "bags.npz")
        words = ["train", "predict", "--ckpt_path", sets.mil_checkpoint(), "--data", bags]
        return [*words, flag, "1", *sets.CPU]

    return Case("predict", f"{flag} for bags", build, (f"{flag} is for images", "leave it out"))


def _recipe(word: str) -> Case:
    def build(folder: Path) -> list[object]:
        del folder
        return ["train", "fit", "--config", word]

    return Case("predict", f"recipe {word}", build, (word, "--config names a YAML recipe"))


CASES = [
    *map(_score, ["1.5", "-0.1", "50%", "nan", "high", ""]),
    *map(_overlays, ["-1", "2.5", "every", "true"]),
    *map(_of_bags, ["--score", "--overlays"]),
    *map(_recipe, ["configs/seg/none.yaml", "configs/../configs/none.yaml"]),
]
