"""Typical mistakes of first users, each at the command that they would type."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tests.faults import configs, sets
from tests.faults.case import ROOT, Case
from tests.faults.foreign import Change, all_of, checked_case, edited, yolo_case

_MIL = "configs/quickstart/abmil.yaml"


def many(change: Change) -> Callable[[Path], object]:
    """Change a training file with 12 objects, so that equal faults are counted."""

    def repeated(data: dict[str, Any]) -> None:
        data["annotations"] = [a for a in data["annotations"] if not a.get("iscrowd")]
        copies = [a | {"id": a["id"] + 1000 * n} for n in range(4) for a in data["annotations"]]
        data["annotations"] = copies
        change(data)

    return edited("train", repeated)


def _written(content: str) -> Callable[[Path], object]:
    return lambda root: (root / "annotations/instances_train.json").write_text(content)


def _as_folder(root: Path) -> None:
    (root / "annotations/instances_train.json").unlink()
    (root / "annotations/instances_train.json").mkdir()


def _points(data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        annotation["segmentation"] = [[4, 4], [16, 4], [16, 16], [4, 16]]


def _boxes_only(data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        annotation.pop("segmentation")


def _from_zero(data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        annotation["category_id"] = {3: 0, 7: 1}[annotation["category_id"]]


def _cased(data: dict[str, Any]) -> None:
    data["categories"][1]["name"] = "Cell"


def _in_folder(data: dict[str, Any]) -> None:
    for image in data["images"]:
        image["file_name"] = f"train/{image['file_name']}"


def _texts(data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])


def _exchanged(root: Path) -> None:
    """Store five images of 20 x 32 px, stated as 32 px high and 20 px wide."""
    data = sets.truth()
    data["images"] = [
        {"id": n, "file_name": f"{n}.png", "height": 32, "width": 20} for n in range(11, 16)
    ]
    for image in data["images"]:
        Image.new("RGB", (32, 20)).save(root / "images/train" / image["file_name"])
    (root / "annotations/instances_train.json").write_text(json.dumps(data))


def _nested(root: Path) -> None:
    for file in list((root / "images/train").iterdir()):
        (root / "images/train/a").mkdir(exist_ok=True)
        file.rename(root / "images/train/a" / file.name)


def _one_lost(root: Path) -> None:
    for file in (root / "images/train").iterdir():
        file.unlink()


_TINY = [[5.6, 5.6, 5.9, 5.6, 5.9, 5.9]]  # between two pixel centres
_FRACTIONS = [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]
_CUT = json.dumps(sets.truth())[:300]
_TRAIN = "instances_train.json"
ANNOTATIONS = [
    checked_case("an empty annotation file", _written(""), _TRAIN, "not valid JSON", "export"),
    checked_case("an annotation file cut off", _written(_CUT), _TRAIN, "not valid JSON", "export"),
    checked_case("an annotation file that is a folder", _as_folder, _TRAIN, "is a directory",
                 "give the path"),
    checked_case("polygons in 0..1", many(all_of(segmentation=_FRACTIONS)), _TRAIN,
                 "between 0 and 1", "multiply x by the width"),
    checked_case("some polygons in 0..1",
                 edited("train", lambda d: d["annotations"][0].update(segmentation=_FRACTIONS)),
                 _TRAIN, "annotation 101", "between 0 and 1", "multiply x by the width"),
    checked_case("masks between the pixels", many(all_of(segmentation=_TINY)), _TRAIN,
                 "none of the 12 masks of train covers a pixel", "in pixels"),
    checked_case("polygons as [x, y] points", many(_points), _TRAIN, "12 x", "annotation 101",
                 "list of points [x, y]", "one list"),
    checked_case("boxes as corners", many(all_of(bbox=[20, 20, 31, 31])), _TRAIN, "12 x",
                 "annotation 101", "outside the image", "[x, y, width, height]"),
    checked_case("boxes only", many(_boxes_only), _TRAIN, "none of the 12 annotations has a mask",
                 "export polygons"),
    checked_case("height and width exchanged", _exchanged, _TRAIN, "5 x", "image 11",
                 "20 px high and 32 px wide", "exchanged"),
    checked_case("category ids from 0", many(_from_zero), _TRAIN, "categories 0 to 1",
                 "3 ('cell') for 0, 7 ('dot') for 1"),
    checked_case("a class beside one of another case", many(_cased), _TRAIN,
                 "'cell' (8 annotations) and 'cell' (4", "differ in case",
                 "make them one class"),
    checked_case("file names with a folder in front", many(_in_folder), _TRAIN, "image 11",
                 "train/train/11.png", "'11.png' as its file_name"),
    checked_case("images in nested folders", _nested, _TRAIN, "image 11",
                 "write 'a/11.png' as its file_name"),
    checked_case("all images missing", _one_lost, _TRAIN, "image 11", "11.png is missing",
                 "add the file"),
    checked_case("image ids as text", many(_texts), _TRAIN, "12 x", "image 11",
                 "no such image", "the number 11, without quotes"),
    checked_case("an image id twice", edited("train", lambda d: d["images"][0].update(id=12)),
                 _TRAIN, "image id 12 occurs twice", "renumber"),
    checked_case("a mask of another size", edited("train", lambda d: d["annotations"][1].update(
                 segmentation={"size": [16, 16], "counts": [256]})),
                 _TRAIN, "annotation 102", "[16, 16]", "at the size of the image"),
    checked_case("the same class name twice", edited("train", lambda d: d["categories"][1].update(
                 name="cell")), _TRAIN, "'cell' occurs twice", "rename one"),
]  # fmt: skip


def _lines(change: Callable[[str], str]) -> Callable[[Path], object]:
    """Change every line of every label file."""

    def written(root: Path) -> None:
        for file in (root / "labels").rglob("*.txt"):
            lines = file.read_text().splitlines() * 3
            file.write_text("".join(f"{change(line)}\n" for line in lines))

    return written


def _next_class(line: str) -> str:
    number, _, rest = line.partition(" ")
    return f"{int(number) + 1} {rest}"


def _beside(root: Path) -> None:
    for file in (root / "labels").rglob("*.txt"):
        file.rename(root / "images" / file.relative_to(root / "labels"))
    shutil.rmtree(root / "labels")


def _yaml(old: str, new: str) -> Callable[[Path], object]:
    def written(root: Path) -> None:
        (root / "data.yaml").write_text((root / "data.yaml").read_text().replace(old, new))

    return written


YOLO = [
    yolo_case("class numbers from 1", _lines(_next_class), "12.txt", "line 2", "6 x class 2",
              "subtract 1 in every line"),
    yolo_case("detection labels", _lines(lambda line: f"{line.split()[0]} .5 .5 .2 .2"), "11.txt",
              "line 1", "18 x 4 coordinates are a box", "boxes_as_masks"),
    yolo_case("coordinates in pixels", _lines(lambda line: f"{line.split()[0]} 4 4 16 4 16 16"),
              "11.txt", "coordinate 16 is outside 0 to 1", "divide x by the image's width"),
    yolo_case("labels beside the images", _beside, "train", "has a label file",
              "beside the images", "labels/train"),
    yolo_case("names and nc that disagree", _yaml("names", "nc: 3\nnames"), "data.yaml", "nc is 3",
              "2 names"),
    yolo_case("a class name of another case", _yaml("dot", "Cell"), "data.yaml", "differ in case",
              "make them one class"),
]  # fmt: skip


def _without(*path: str, key: str = "class_pth", old: str = "class_path") -> Any:
    """Rename a key of a section with a class."""

    def words(folder: Path) -> list[object]:
        content = yaml.safe_load((ROOT / _MIL).read_text())
        section = content
        for name in path:
            section = section[name]
        section[key] = section.pop(old)
        (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
        return configs.fit(folder / "recipe.yaml")

    return words


def section_case(name: str, *path: str, key: str = "class_pth", old: str = "class_path") -> Case:
    expected = ("recipe.yaml", f"unknown key {key}", "line", f"did you mean {old}")
    return Case("mistake", name, _without(*path, key=key, old=old), expected)


def flag_case(name: str, words: list[object], *expected: str) -> Case:
    """Train bags with further flags."""
    return Case("mistake", name, lambda _: configs.briefly(Path(_MIL), *words), expected)


def _offline(folder: Path) -> list[object]:
    """Ask for weights from a server that nobody can reach."""
    from huggingface_hub import constants

    constants.ENDPOINT = "http://127.0.0.1:9"
    backbone = "--model.init_args.model.init_args.backbone.init_args"
    words = ["--data.root", sets.write_coco(folder), f"{backbone}.pretrained", "true"]
    return [*sets.COCO, *words, f"{backbone}.name", "resnet18"]


_NET = ("model", "init_args", "model")
CONFIGURATION = [
    section_case("class_pth of the module", "model"),
    section_case("class_pth of the network", *_NET),
    section_case("class_pth of the data", "data"),
    section_case("class_pth of the optimizer", "model", "init_args", "optimizer"),
    section_case("init_arg of the network", *_NET, key="init_arg", old="init_args"),
    flag_case("class_pth by a flag", ["--model.class_pth", "lightning_modules.mil.MILModule"],
              "--model.class_pth", "did you mean class_path"),
    flag_case("num_classes by hand", ["--model.init_args.model.init_args.num_classes", 3],
              "num_classes", "set from the data", "leave it out"),
    flag_case("a flag cut short", ["--trainer.max_e", 3], "--trainer.max_e",
              "did you mean max_epochs"),
    flag_case("LearningRateFinder", ["--trainer.callbacks+=LearningRateFinder"],
              "trainer.callbacks", "LearningRateFinder", "optimizer.init_args.lr"),
    flag_case("BackboneFinetuning", ["--trainer.callbacks+=BackboneFinetuning"],
              "trainer.callbacks", "BackboneFinetuning", "freeze"),
    flag_case("a requirement of a callback", ["--trainer.callbacks+=DeviceStatsMonitor"], "psutil",
              "install"),
    flag_case("a callback without its argument", ["--trainer.callbacks+=EarlyStopping"],
              "trainer.callbacks", "EarlyStopping lacks monitor", "--trainer.callbacks.monitor"),
    flag_case("a metric by another name", ["--checkpoint.monitor", "val/AUC"],
              "monitors val/AUC", "did you mean", "val/bag_auroc"),
    flag_case("devices that are none", ["--trainer.devices", "abc"], "trainer", "devices"),
    flag_case("more devices than there are",
              ["--trainer.accelerator", "gpu", "--trainer.devices", 99],
              "trainer.accelerator gpu, trainer.devices 99", "leave both out",
              "--trainer.accelerator auto"),
    flag_case("an accelerator that is not installed", ["--trainer.accelerator", "tpu"], "trainer",
              "torch_xla"),
    flag_case("a fault of the first step",  # when the folder of the run is there already
              ["--model.init_args.loss_weights", '{"bagg": 1}'], "loss_weights names ['bagg']"),
    flag_case("no batch to accumulate", ["--trainer.accumulate_grad_batches", 0],
              "trainer.accumulate_grad_batches", "at least 1"),
    flag_case("precision 16 on a CPU", ["--trainer.precision", "16", *sets.CPU],
              "trainer.precision 16", "needs a GPU", "leave it out"),
    Case("mistake", "weights from a server that is not there", _offline,
         ("pretrained: true", "cannot be reached", "init_from", "set pretrained: false"),
         long=True),
    Case("mistake", "a flag of a command cut short",
         lambda _: ["evaluate", "coco", "--annotations", "a.json", "--pred", "b.json"],
         ("--predictions", "--ckpt")),
]  # fmt: skip


def _scored(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], list[object]]:
    def words(folder: Path) -> list[object]:
        rows = sets.results()
        change(rows)
        files = folder / "truth.json", folder / "found.json"
        for file, content in zip(files, (sets.truth(), rows), strict=True):
            file.write_text(json.dumps(content))
        return ["evaluate", "coco", "--annotations", files[0], "--predictions", files[1]]

    return words


def _others(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["image_id"] += 500


def _swapped(folder: Path) -> list[object]:
    words = _scored(lambda _: None)(folder)
    return [*words[:3], words[5], "--predictions", words[3]]


_TABLE = "bag_id,label,score\na,1,90\nb,0,20\nc,1,70\nd,0,40\n"


def _scored_bags(text: str, *more: object) -> Callable[[Path], list[object]]:
    def words(folder: Path) -> list[object]:
        (folder / "bags.csv").write_text(text)
        return ["evaluate", "mil", "--draws", 10, "--predictions", folder / "bags.csv", *more]

    return words


def _out(name: str) -> Callable[[Path], list[object]]:
    """Write the scores of bags into a folder, or over the file of the bags."""

    def words(folder: Path) -> list[object]:
        (folder / "there").mkdir()
        sound = _TABLE.replace("0\n", "\n").replace(",9", ",.9").replace(",2", ",.2")
        sound = sound.replace(",7", ",.7").replace(",4", ",.4")
        return [*_scored_bags(sound)(folder), "--out", folder / name]

    return words


EVALUATION = [
    Case("mistake", "annotations and predictions exchanged", _swapped,
         ("found.json", "as predictions are", "exchanged?")),
    Case("mistake", "predictions for other images", _scored(_others),
         ("found.json", "image_id 511", "belong")),
    Case("mistake", "percentages as scores of bags", _scored_bags(_TABLE),
         ("bags.csv", "bag a", "[0, 1]")),
    Case("mistake", "an output path that is a folder", _out("there"), ("--out", "there")),
    Case("mistake", "an output path that is the input", _out("bags.csv"), ("--out", "bags.csv")),
]  # fmt: skip

CASES = [*ANNOTATIONS, *YOLO, *CONFIGURATION, *EVALUATION]
