"""`evaluate.py operating-point` on files that hold different things."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import commands.operating_point
import evaluate
from engine.deploy import predict as inference
from evaluate import build_parser
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
    found = commands.operating_point.coco_predictions(args, Path("c.ckpt"), truth)
    model = commands.operating_point._score(args, "c.ckpt", found, truth, "bbox")
    assert model.point.counts.sum(axis=0).tolist() == [[0, 301, 0]]
    assert "the best" not in capsys.readouterr().out


def test_ap_of_the_table_counts_what_the_tiles_of_a_checkpoint_have_found(
    tmp_path, monkeypatch, capsys
):
    other = {"id": 4, "name": "b"}
    truth = {"images": [IMAGE], "categories": [CATEGORY, other], "annotations": []}
    rows = [BOX] * 140 + [BOX | {"category_id": 4}] * 90
    predicted = inference.CocoPredictions(truth, rows, 120, 0)
    monkeypatch.setattr(inference, "predict_coco", lambda *a, **k: predicted)
    for name, content in (("c.ckpt", {}), ("a.json", truth)):
        (tmp_path / name).write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    words = ["operating-point", "--ckpt", "c.ckpt", "--annotations", "a.json", "--out", "o.json"]
    words += ["--images", "images"]
    monkeypatch.setattr(commands.operating_point, "ground_truth", lambda args: (truth, ()))
    for more, cap in (([], 140), (["--max-dets", "7"], 7)):
        with pytest.warns(UserWarning, match="undefined"):
            assert evaluate.main([*words, *more]) == 0
        (row,) = json.loads((tmp_path / "o.json").read_text())["table"]
        assert row["ap_max_dets"] == cap
        assert f"AP of at most {cap} detections" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--latency", "--device", "cuda"], "no CUDA device is available; use --device cpu"),
        (["--latency", "--scale", "2", "--warmup", "-1"], "--warmup: must not be negative"),
        (["--iou", "0"], "--iou: an overlap"),
        (["--out", "c.ckpt"], "--out c.ckpt is the file of --ckpt"),
        (["--ckpt", "c.ckpt", "d.ckpt"], "d.ckpt: no such file; name checkpoints"),
        (["--ckpt", "c.ckpt", "c.ckpt"], "a file is given twice"),
    ],
)
def test_nothing_is_predicted_for_arguments_that_are_refused(
    tmp_path, monkeypatch, capsys, words, message
):
    def predict(*_, **__):
        raise AssertionError("predicted")

    monkeypatch.setattr(inference, "predict_coco", predict)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.ckpt").write_bytes(b"")
    truth = {"images": [IMAGE], "categories": [CATEGORY], "annotations": []}
    (tmp_path / "a.json").write_text(json.dumps(truth))
    common = ["operating-point", "--ckpt", "c.ckpt", "--annotations", "a.json", "--images", "."]
    assert evaluate.main([*common, *words]) == 2
    assert message in capsys.readouterr().err


def test_curves_are_recorded_and_drawn(tmp_path, capsys):
    weak = {**BOX, "bbox": [8, 8, 4, 4], "score": 0.4}
    figure = tmp_path / "new" / "curves.png"
    code, record = run(tmp_path, "--curves", str(figure), truth_masks=False, a=[BOX, weak], b=[BOX])
    assert code == 0
    curves = record["curves"]
    assert len(curves["confidence"]) == 1000
    assert list(curves["models"]) == list(record["models"])
    for source, precision in zip(record["models"], (0.5, 1.0), strict=True):
        model = curves["models"][source]
        assert model["mean_precision"][0] == precision
        assert model["mean_precision"][500] == model["per_class"][0]["recall"][500] == 1
        assert model["mean_precision"][999] is None
    assert f"written: {figure}" in capsys.readouterr().out
    with Image.open(figure) as image:
        assert image.format == "PNG"
        assert min(image.size) > 1000


def test_predictions_beyond_the_cap_are_told_and_can_be_counted(tmp_path, capsys):
    many = [{**BOX, "score": 0.95}] * 301 + [{**BOX, "score": 0.4}] * 9
    code, record = run(tmp_path, a=many)
    assert code == 0
    assert "a.json has up to 301 predictions per image of at least 0.5; the best 300" in (
        capsys.readouterr().out
    )
    assert record["table"][0]["micro_precision"] == pytest.approx(1 / 300)
    code, record = run(tmp_path, "--max-dets", "301", a=many)
    assert record["table"][0]["micro_precision"] == pytest.approx(1 / 301)
    assert "the best" not in capsys.readouterr().out
