"""Tiles and views from the recipe to the checkpoint and from the command line over it."""

import json
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image

import commands._arguments
import evaluate
import train
from datamodules.seg import arguments as segmentation
from datamodules.seg.coco import CocoDataModule
from engine.checkpoints.restore import restore
from engine.deploy import predict as inference
from lightning_modules.rebuilding import FORMAT
from lightning_modules.segmentation import SegmentationModule
from models.seg.inference.predict import LARGEST_SCALE, InferenceOptions, changed_options
from structures import CategoryMap
from tests.support.colour_segmentor import ColourModel, ColourSegmentor, as_batch, paint

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("ring", "rod", "dot")
SCENE = [("disc", 30, 30, 12, 0), ("disc", 62, 14, 7, 1), ("disc", 76, 14, 7, 1),
         ("bar", 3, 60, 90, 66, 2)]  # fmt: skip
IMAGES = [paint((80, 96), SCENE), paint((60, 50), SCENE[:1]), torch.zeros(3, 20, 20)]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(ColourModel, "shapes", [])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Write images with exact annotations and return the annotation file."""
    root = tmp_path_factory.mktemp("scenes")
    (root / "images").mkdir()
    images, annotations = [], []
    for number, image in enumerate(IMAGES, start=1):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(root / "images" / f"{number}.png")
        height, width = image.shape[1:]
        images.append(
            {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
        )
        (truth,) = ColourSegmentor().predict(as_batch([image]))
        for box, label, mask in zip(truth.boxes, truth.labels, truth.masks.to_coco(), strict=True):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float((x2 - x1) * (y2 - y1)),
                    "segmentation": mask,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
    file = root / "truth.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))
    return file


@pytest.fixture(scope="module")
def checkpoint(scenes, tmp_path_factory):
    """Return a checkpoint of a recipe that asks for tiles of 40 pixels and mirrored images."""
    inference = {"tile": 40, "overlap": 10, "flip": True}
    categories = CategoryMap((1, 2, 3), NAMES).to_dict()
    data = CocoDataModule(
        test_annotations=scenes, test_images=scenes.parent / "images", category_map=categories
    )
    model = {
        "class_path": "lightning_modules.segmentation.SegmentationModule",
        "init_args": {
            "model": {"class_path": "tests.support.colour_segmentor.ColourModel", "init_args": {}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            "inference": inference,
        },
    }
    record = {
        "format": FORMAT,
        "blueprint": {
            "model": model,
            "data": {"class_path": "datamodules.seg.coco.CocoDataModule", "init_args": {}},
            "links": {"num_classes": 3},
        },
        "facts": {
            "category_map": categories,
            "preprocessing": data.evaluation_arguments(),
            "categories": data.category_arguments(),
        },
        "precision": "32-true",
    }
    module = SegmentationModule(ColourModel(3), torch.optim.SGD)
    file = tmp_path_factory.mktemp("run") / "c.ckpt"
    content = {"segmil": record, "state_dict": module.state_dict()}
    trained = {"epoch": 1, "global_step": 1, "pytorch-lightning_version": pl.__version__}
    torch.save(content | trained, file)
    return file


def score(checkpoint, scenes, *flags, command="coco"):
    out = checkpoint.parent / "out.json"
    source = ["--ckpt", checkpoint, "--annotations", scenes, "--images", scenes.parent / "images"]
    code = evaluate.main([str(a) for a in (command, *source, "--out", out, *flags)])
    assert code == 0
    return json.loads(out.read_text())["metrics"]


def test_the_checkpoints_options_are_used(checkpoint, scenes):
    assert restore(checkpoint).module.inference == InferenceOptions(tile=40, overlap=10, flip=True)
    metrics = score(checkpoint, scenes)
    assert metrics["segm_map"] == metrics["box_map"] == 1
    tiles = [shape for shape in ColourModel.shapes if shape[2:] == (40, 40)]
    # overlap 10: 3 tiles over 80 rows, 3 over 96 columns; 2 over 60 and 2 over 50; both mirrored
    assert sum(shape[0] for shape in tiles) == 2 * (9 + 4)


def test_flags_win_over_the_checkpoint(checkpoint, scenes):
    assert score(checkpoint, scenes, "--tile", "48", "--no-tta")["segm_map"] == 1
    # a fifth of 48 is shared: 2 tiles over 80 rows, 3 over 96 columns, 2 over 60 rows, 2 over 50
    tiles = [shape for shape in ColourModel.shapes if shape[2:] == (48, 48)]
    assert sum(shape[0] for shape in tiles) == 6 + 4


def test_tiles_can_be_switched_off_and_views_chosen(checkpoint, scenes):
    score(checkpoint, scenes, "--tile", "0", "--tta-scales", "1", "0.5", "--scale", "2")
    shapes = set(ColourModel.shapes)  # of doubled images, padded to multiples of 32; halved again
    assert {(1, 3, 160, 192), (1, 3, 80, 96), (1, 3, 128, 128), (1, 3, 60, 50)} <= shapes
    assert (1, 3, 20, 20) in shapes
    assert len(ColourModel.shapes) == 2 * 2 * 3  # the checkpoint mirrors as well


def test_operating_point_has_the_same_flags(checkpoint, scenes):
    metrics = score(
        checkpoint, scenes, "--tile", "32", "--tile-overlap", "4", command="operating-point"
    )
    assert metrics[str(checkpoint)]["micro_f1"] == 1
    assert (4, 3, 32, 32) in ColourModel.shapes


@pytest.mark.parametrize("command", ["coco", "operating-point"])
@pytest.mark.parametrize(
    "flag", [["--tile", "32"], ["--tile-max-dets", "9"], ["--tta"], ["--scale", "1"]]
)
def test_flags_need_a_checkpoint(command, flag, tmp_path, capsys):
    words = [command, "--predictions", tmp_path / "p.json", "--annotations", tmp_path / "t.json"]
    assert evaluate.main([str(w) for w in [*words, *flag]]) == 2
    assert "give --ckpt instead of --predictions" in capsys.readouterr().err


def test_values_that_do_not_go_together_are_told(checkpoint, scenes, capsys):
    words = ["coco", "--ckpt", checkpoint, "--annotations", scenes, "--tile-overlap", "30"]
    assert evaluate.main([str(w) for w in words]) == 2
    assert "overlap must be from 1 to half of the tile of 40 pixels" in capsys.readouterr().err


def test_objects_of_an_image_in_tiles_have_a_flag(checkpoint, scenes, tmp_path):
    rows = tmp_path / "rows.json"
    score(checkpoint, scenes, "--save-predictions", rows)
    assert [row["image_id"] for row in json.loads(rows.read_text())] == [1] * 4 + [2]
    with pytest.warns(UserWarning, match="more objects in its tiles than tile_max_dets of 3"):
        metrics = score(checkpoint, scenes, "--save-predictions", rows, "--tile-max-dets", "3")
    assert [row["image_id"] for row in json.loads(rows.read_text())] == [1] * 3 + [2]
    assert metrics["segm_map"] < 1


@pytest.mark.parametrize("command", ["coco", "operating-point", "latency"])
@pytest.mark.parametrize("flag", ["--scale", "--tta-scales"])
@pytest.mark.parametrize("value", ["1000", "0", "nan", "-1"])
def test_factors_that_cannot_be_meant_are_refused_at_once(command, flag, value, capsys):
    assert commands._arguments.LARGEST_SCALE == segmentation.LARGEST_SCALE == LARGEST_SCALE
    words = [command, "--ckpt", "no.ckpt", "--annotations", "no.json", f"{flag}={value}"]
    assert evaluate.main(words) == 2
    assert f"{flag}: a factor on the size of images is in (0, 16]" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--scale", "4"], ["--scale", "2", "--tta-scales", "1", "2"]])
@pytest.mark.parametrize("command", ["coco", "operating-point"])
def test_images_that_would_be_too_large_are_named_before_any_is_read(
    checkpoint, scenes, flags, command, capsys, monkeypatch
):
    monkeypatch.setattr(inference, "LARGEST_FRAME", 4 * 80 * 4 * 96 - 1)
    words = [command, "--ckpt", checkpoint, "--annotations", scenes, *flags]
    assert evaluate.main([str(w) for w in words]) == 2
    shown = capsys.readouterr().err
    assert "truth.json: image 1 (1.png) of 80 x 96 pixels would be predicted at 320 x 384" in shown
    assert not ColourModel.shapes


def test_a_scale_out_of_range_is_refused_where_there_is_no_command_line(checkpoint, scenes):
    with pytest.raises(ValueError, match=r"scale is a factor .* in \(0, 16\], got 17"):
        inference.predict_coco(checkpoint, scenes, None, scale=17)


def test_changes():
    base = InferenceOptions(tile=40, overlap=20, scales=(1.0, 2.0))
    assert changed_options(base, {}) == base
    assert changed_options(None, {}) is None
    assert changed_options(None, {"flip": True}) == InferenceOptions(flip=True)
    assert changed_options(base, {"tile": 30}) == InferenceOptions(tile=30, scales=(1.0, 2.0))
    assert changed_options(base, {"tile": None}) == InferenceOptions(scales=(1.0, 2.0))
    assert changed_options(base, {"tile": 30, "overlap": 3}).overlap == 3
    assert changed_options(base, {"overlap": 3}).tile == 40
    capped = InferenceOptions(tile=40, tile_max_dets=7)
    assert changed_options(capped, {"tile": None}) is None
    assert changed_options(capped, {"tile": None, "flip": True}) == InferenceOptions(flip=True)
    assert changed_options(capped, {"tile": 30}).tile_max_dets == 7


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (None, {"tile": None}),
        (None, {"flip": False, "flip_vertical": False, "scales": (1.0,)}),
        (InferenceOptions(), {}),
        (InferenceOptions(tile=40, tile_batch=2, merge_iou=0.7), {"tile": None}),
        (InferenceOptions(flip=True, fuse_iou=0.7), {"flip": False}),
    ],
)
def test_what_asks_for_one_view_of_the_whole_image_is_nothing(options, changes):
    assert changed_options(options, changes) is None


def test_predictions_that_ap_leaves_out_are_told(checkpoint, scenes, capsys):
    score(checkpoint, scenes)
    assert "AP counts the best" not in capsys.readouterr().out
    score(checkpoint, scenes, "--max-dets", "1")
    shown = capsys.readouterr().out
    assert "note: up to 2 predictions per image and class, of which AP counts the best 1" in shown
    assert "raise --max-dets to count more" in shown


def test_train_py_predicts_with_tiles(checkpoint, scenes, tmp_path):
    words = ["predict", "--ckpt_path", checkpoint, "--data", scenes.parent / "images",
             "--runs_dir", tmp_path, "--callbacks.predictions", "false",
             "--model.init_args.inference.tile", "24", "--model.init_args.inference.overlap", "6",
             "--model.init_args.inference.flip", "false"]  # fmt: skip
    assert train.main([str(w) for w in words]) == 0
    # the smallest image has its padding: it is not cut; 5 x 5 tiles and 3 x 3
    assert {shape[2:] for shape in ColourModel.shapes} == {(24, 24), (32, 32)}
    assert sum(shape[0] for shape in ColourModel.shapes if shape[2:] == (24, 24)) == 34
    resolved = yaml.safe_load((tmp_path / "predict" / "version_0" / "config.yaml").read_text())
    assert resolved["model"]["init_args"]["inference"]["tile"] == 24


def test_validation_and_prediction_use_the_options():
    module = SegmentationModule(
        ColourModel(3), torch.optim.SGD, inference=InferenceOptions(tile=40, overlap=10)
    )
    batch = as_batch(IMAGES[:1])
    (expected,) = ColourSegmentor().predict(batch)
    for found in (module.predict_step(batch, 0), _in_evaluation(module, batch)):
        assert found[0].masks.to_coco() == expected.masks.to_coco()
    assert {shape[2:] for shape in ColourModel.shapes} == {(40, 40)}


def _in_evaluation(module, batch):
    module.category_map = CategoryMap((1, 2, 3), NAMES)
    module.on_validation_epoch_start()
    found = module.validation_step(batch, 0)
    assert len(module._evaluator) == 1
    assert len(module.test_step(batch, 0)) == 1
    return found
