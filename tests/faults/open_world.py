"""Open-world scores of unknown splits, protocols, ids and names, and splits without a meaning."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.faults import sets
from tests.faults.case import Case

_IDS = [c["id"] for c in sets.truth()["categories"]]


def scoring(*words: object, split: object = None) -> Callable[[Path], list[object]]:
    """Return a builder of valid files and the command with the words; SPLIT is the split's file."""

    def build(folder: Path) -> list[object]:
        truth, found = folder / "truth.json", folder / "found.json"
        truth.write_text(json.dumps(sets.truth()))
        found.write_text(json.dumps(sets.results()))
        (folder / "split.json").write_text(json.dumps(split))
        files = ["--annotations", truth, "--predictions", found]
        named = [folder / "split.json" if word == "SPLIT" else word for word in words]
        return ["evaluate", "open-world", *files, *named]

    return build


def case(name: str, words: list[object], *expected: str, split: object = None) -> Case:
    return Case("open world", name, scoring(*words, split=split), expected)


def _boxes_alone(folder: Path) -> list[object]:
    words = scoring("--protocol", "all", "--iou-type", "segm")(folder)
    rows = [{k: v for k, v in row.items() if k != "segmentation"} for row in sets.results()]
    (folder / "found.json").write_text(json.dumps(rows))
    return words


def _other_data(folder: Path) -> list[object]:
    for name in ("train.json", "val.json"):
        (folder / name).write_text(json.dumps(sets.truth()))
    files = ["--train", folder / "train.json", "--val", folder / "val.json"]
    return ["evaluate", "make-split", "--name", "lvis-ow", *files, "--out", folder / "made"]


_SMALL = ["--data.train_scenes", "8"]


def _training(*words: object) -> Callable[[Path], list[object]]:
    recipe = "configs/quickstart/open_world_oln.yaml"
    return lambda _: ["train", "fit", "--config", recipe, *sets.CPU, *_SMALL, *words]


_EXCLUDE: list[object] = ["--protocol", "exclude-known", "--known"]
CASES = [
    case("an unknown split", [*_EXCLUDE, "vok"], "'vok' is no split", "voc", "truth.json"),
    case("an unknown protocol", ["--protocol", "most"], "invalid choice: 'most'", "class-wise"),
    case("no known categories", _EXCLUDE[:2], "needs the known categories", "--known voc"),
    case("an unknown id", [*_EXCLUDE, _IDS[0], 991], "category id 991", "truth.json"),
    case("a misspelt name", [*_EXCLUDE, "catt"], "'catt'", "no category of", "truth.json"),
    case("everything known", [*_EXCLUDE, *_IDS], "all", "are known", "protocol `all`"),
    case("a split of other ids", ["--protocol", "lvis-ow", "--known", "SPLIT"], "id 5000",
         split={"name": "a", "known": [5000]}),
    case("a split file without known", [*_EXCLUDE, "SPLIT"], "split.json", "'known' is not a list",
         split={"name": "a"}),
    case("a split file that is a list", [*_EXCLUDE, "SPLIT"], "split.json", "not a split",
         split=[1, 2]),
    case("an id in two sets", [*_EXCLUDE, "SPLIT"], "split.json", "in 'known' and in 'seen'",
         split={"name": "a", "known": _IDS[:1], "seen": _IDS[:1]}),
    case("lvis-ow without seen and unseen", ["--protocol", "lvis-ow", "--known", "SPLIT"],
         "needs seen and unseen", "--known lvis-ow", split={"name": "a", "known": _IDS[:1]}),
    case("a split file that is missing", [*_EXCLUDE, "absent.json"], "absent.json", "no such file"),
    case("drop-empty without effect", ["--protocol", "all", "--drop-empty"], "novel-only"),
    case("predictions saved of a file", ["--protocol", "all", "--save-predictions", "p.json"],
         "--save-predictions", "--ckpt"),
    Case("open world", "training without a split", _training("--data.known", "null"),
         ("data.init_args.known", "digit_open_world.yaml"), long=True),
    Case("open world", "novel objects choose the checkpoint",
         _training("--checkpoint.monitor", "val/novel_segm_map"), ("val/known_segm_map",),
         long=True),
    Case("open world", "OLN with several classes", _training("--data.class_agnostic", "false"),
         ("the data have 6", "data.class_agnostic: true"), long=True),
    Case("split", "another data set", _other_data, ("train.json", "lvis")),
    Case("open world", "masks asked of boxes", _boxes_alone, ("found.json", "--iou-type bbox")),
]  # fmt: skip
