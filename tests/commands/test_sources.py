"""A checkpoint or a file of predictions: one object for both, checked once on the way to scores."""

import json
import sys
from argparse import Namespace
from collections import Counter

import pytest

import evaluate
from commands._sources import bag_predictions, coco_predictions
from datamodules.seg.digit_scenes import DigitScenesDataModule
from formats.coco import document, result_checks, results
from tests.support.tiny_checkpoints import YOLO, write_checkpoint

# Every function that walks through ground truth or rows to find faults.
CHECKS = (
    document.read_json,
    document.check_coco,
    result_checks.find_result_problems,
    results.check_ground_truth,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint twice, scenes of digits and two files of results on them."""
    root = tmp_path_factory.mktemp("sources")
    for name in ("one", "two"):
        write_checkpoint(root / f"{name}.ckpt", YOLO, liven=1.0)
    DigitScenesDataModule(test_scenes=3).write_split("test", root)
    content = json.loads((root / "annotations" / "instances_test.json").read_text())
    keys = ("image_id", "category_id", "bbox", "segmentation")
    rows = [{k: a[k] for k in keys} | {"score": 0.9} for a in content["annotations"]]
    (root / "a.json").write_text(json.dumps(rows))
    (root / "b.json").write_text(json.dumps(rows[1:]))
    return root


@pytest.fixture
def truth(folder):
    return folder / "annotations" / "instances_test.json"


def counted(words):
    """Run a command; returns how often each check was called."""
    names = {function.__code__: function.__name__ for function in CHECKS}
    calls = Counter()

    def look(frame, event, argument):
        if event == "call" and frame.f_code in names:
            calls[names[frame.f_code]] += 1

    sys.setprofile(look)
    try:
        assert evaluate.main([str(word) for word in words]) == 0
    finally:
        sys.setprofile(None)
    return dict(calls)


@pytest.mark.filterwarnings("ignore:undefined", "ignore:all .* predicted masks are empty")
@pytest.mark.parametrize(
    ("words", "files", "sources"),
    [
        (["coco", "--predictions", "a.json"], 2, 1),
        (["coco", "--predictions", "a.json", "--class-agnostic", "--per-class"], 2, 1),
        (["coco", "--ckpt", "one.ckpt"], 1, 1),
        (["operating-point", "--predictions", "a.json"], 2, 1),
        (["operating-point", "--predictions", "a.json", "b.json"], 3, 2),
        (["operating-point", "--ckpt", "one.ckpt", "two.ckpt"], 1, 2),
        (["compare", "--predictions", "a.json", "b.json", "--draws", "9"], 3, 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_truth_and_predictions_are_checked_once(folder, truth, monkeypatch, words, files, sources):
    """Reading counts as well: a file is parsed once."""
    monkeypatch.chdir(folder)
    found = counted([*words, "--annotations", truth])
    assert found == {"read_json": files, "check_coco": 1, "find_result_problems": sources}


def arguments(truth, **given):
    usual = {"annotations": truth, "images": None, "bad_data": "error", "batch_size": None}
    flags = dict.fromkeys(("tile", "tile_overlap", "tile_max_dets", "tta", "tta_scales", "scale"))
    return Namespace(**{**usual, **flags, "ckpt": None, "predictions": None, **given})


def test_a_file_knows_no_cap_and_a_checkpoint_does(folder, truth):
    args = arguments(truth, predictions=folder / "a.json")
    found = coco_predictions(args, args.predictions)
    assert (found.max_dets, found.parameters) == (None, None)
    assert (found.most_per_image, found.most_per_class) == (0, 0)
    args = arguments(truth, ckpt=folder / "one.ckpt")
    found = coco_predictions(args, args.ckpt)
    counts = Counter(row["image_id"] for row in found.rows)
    assert found.most_per_image == max(counts.values()) <= found.max_dets
    classes = Counter((row["image_id"], row["category_id"]) for row in found.rows)
    assert found.most_per_class == max(classes.values())
    merged = found.class_agnostic()
    assert merged.most_per_class == merged.most_per_image == found.most_per_image


def test_a_table_of_bags_that_states_no_threshold_has_none(tmp_path):
    file = tmp_path / "bags.csv"
    file.write_text("bag_id,label,score\na,1,0.9\nb,0,0.2\nc,7,0.5\n")
    found = bag_predictions(Namespace(ckpt=None, predictions=file, bad_data="skip"))
    assert (found.threshold, found.files) == (None, (file,))
    assert found.scores.bag_ids == ("a", "b")
    assert [problem.item for problem in found.problems] == ["c"]
