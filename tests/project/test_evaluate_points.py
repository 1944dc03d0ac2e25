"""`evaluate.py operating-point` on files that hold different things."""

import json
from pathlib import Path

import numpy as np
import pytest

import evaluate
import evaluate_points
from evaluate_arguments import build_parser
from lightning_modules import inference
from structures import RLEMasks

SIZE = 16
SQUARE = np.zeros((1, SIZE, SIZE), bool)
SQUARE[0, :4, :4] = True
MASK = RLEMasks.from_dense(SQUARE, (SIZE, SIZE)).to_coco()[0]
IMAGE = {"id": 1, "height": SIZE, "width": SIZE}
CATEGORY = {"id": 3, "name": "a"}
BOX = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "score": 0.9}


def run(folder, *words, truth_masks=True, **files):
    """Compare files; returns the exit code and the record, or None."""
    truth = {
        "images": [IMAGE],
        "categories": [CATEGORY],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "area": 16,
             "iscrowd": 0, **({"segmentation": MASK} if truth_masks else {})}
        ],
    }  # fmt: skip
    for name, content in {"truth": truth, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    out = folder / "out.json"
    sources = [str(folder / f"{name}.json") for name in files]
    common = ["--annotations", str(folder / "truth.json"), "--out", str(out)]
    code = evaluate.main(["operating-point", "--predictions", *sources, *common, *words])
    return code, json.loads(out.read_text()) if code == 0 else None


KINDS = {"masks": [{**BOX, "segmentation": MASK}], "boxes": [BOX], "empty": []}


@pytest.mark.filterwarnings("ignore:undefined")
@pytest.mark.parametrize(
    ("names", "masks", "kind"),
    [
        (("empty", "boxes"), True, "bbox"),
        (("boxes", "empty"), False, "bbox"),
        (("empty", "masks"), True, "segm"),
        (("empty",), True, "segm"),
        (("empty",), False, "bbox"),
    ],
)
def test_an_empty_file_is_compared_as_the_others_are(tmp_path, names, masks, kind):
    code, record = run(tmp_path, truth_masks=masks, **{name: KINDS[name] for name in names})
    assert code == 0
    recall = {"masks": 1, "boxes": 1, "empty": 0}
    for name, row in zip(names, record["table"], strict=True):
        assert row["iou_type"] == kind
        assert row["micro_recall"] == recall[name]


def test_masks_beside_boxes_need_a_choice(tmp_path, capsys):
    files = {"a": KINDS["masks"], "b": KINDS["boxes"], "c": []}
    assert run(tmp_path, **files)[0] == 2
    shown = capsys.readouterr().err
    assert f"{tmp_path / 'a.json'} holds masks and {tmp_path / 'b.json'} boxes" in shown
    assert "--iou-type bbox" in shown


def test_the_choice_is_possible(tmp_path):
    code, record = run(tmp_path, "--iou-type", "bbox", a=KINDS["masks"], b=KINDS["boxes"])
    assert code == 0
    assert [row["micro_f1"] for row in record["table"]] == [1, 1]


def test_what_the_tiles_of_a_checkpoint_have_found_counts_beyond_the_cap(monkeypatch, capsys):
    truth = {"images": [IMAGE], "categories": [CATEGORY], "annotations": []}
    predicted = inference.CocoPredictions(truth, [BOX] * 301, 100, 0)
    monkeypatch.setattr(inference, "predict_coco", lambda *a, **k: predicted)
    words = ["operating-point", "--ckpt", "c.ckpt", "--annotations", "a.json"]
    args = build_parser().parse_args(words)
    found, _ = evaluate_points._found(args, Path("c.ckpt"), truth)
    evaluate_points._score(args, "c.ckpt", found, truth, "bbox")
    assert found.point.counts.sum(axis=0).tolist() == [[0, 301, 0]]
    assert "the best" not in capsys.readouterr().out


def test_predictions_beyond_the_cap_are_told_and_can_be_counted(tmp_path, capsys):
    many = [{**BOX, "score": 0.95}] * 301 + [{**BOX, "score": 0.4}] * 9
    code, record = run(tmp_path, a=many)
    assert code == 0
    assert "a.json has up to 301 predictions of at least 0.5 a picture; the best 300" in (
        capsys.readouterr().out
    )
    assert record["table"][0]["micro_precision"] == pytest.approx(1 / 300)
    code, record = run(tmp_path, "--max-dets", "301", a=many)
    assert record["table"][0]["micro_precision"] == pytest.approx(1 / 301)
    assert "the best" not in capsys.readouterr().out
