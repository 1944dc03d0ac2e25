"""`low_light` as a user types it: training, validation and the commands that score it."""

import contextlib
import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import evaluate
import train
from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.transforms.raw.low_light import LowLightOptions
from engine.checkpoints.restore import read_record
from lightning_modules.segmentation import SegmentationModule
from tests.support.colour_segmentor import ColourModel

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = {"input": "raw3", "ratio": [5, 20], "clean": True}
TINY = [
    "--config", "configs/quickstart/mask_rcnn.yaml", "--data.val_scenes", "5",
    "--data.eval_batch_size", "2", "--data.seed", "3", "--trainer.limit_train_batches", "3",
    "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false",
    "--model.init_args.model.init_args.score_thresh", "0.0", "--callbacks.curves", "false",
]  # fmt: skip


def fit(runs, options, *more):
    os.chdir(ROOT)
    overlay = runs / "dark.yaml"
    overlay.write_text(yaml.safe_dump({"data": {"init_args": {"low_light": options}}}))
    words = ["fit", *TINY, "--config", overlay, *more, "--runs_dir", runs, "--name", "dark"]
    return train.main([str(w) for w in words])


@pytest.fixture(scope="module")
def dark_run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    # an overlay of data after the recipe leaves the option alone
    assert fit(runs, OPTIONS, "--config", "configs/_base/data/digit_scenes.yaml") == 0
    return runs / "dark" / "version_0"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return DigitScenesDataModule(val_scenes=5).write_split("val", tmp_path_factory.mktemp("val"))


def scored(command, checkpoint, scenes, tmp_path, *more):
    images, annotations = scenes
    out = tmp_path / f"{command}.json"
    words = [command, "--ckpt", checkpoint, "--annotations", annotations, "--images", images]
    assert evaluate.main([str(w) for w in (*words, *more, "--out", out)]) == 0
    return json.loads(out.read_text())


@pytest.mark.slow
def test_the_checkpoint_carries_the_option(dark_run):
    record = read_record(dark_run / "checkpoints" / "last.ckpt")
    kept = record["facts"]["preprocessing"]
    assert kept["seed"] == 3
    assert kept["low_light"] == {
        "input": "raw3", "camera": "canon_5d4", "ratio": [5, 20], "bits": None,
        "physics": "corrected", "clean": True, "evaluate": "dark",
    }  # fmt: skip


@pytest.mark.slow
def test_the_gallery_shows_the_dark_the_brightened_and_what_is_there(dark_run):
    with Image.open(dark_run / "pictures" / "gallery_epoch_001.png") as file:
        sheet = np.asarray(file)
    views = np.array_split(sheet[30:200], 4, axis=1)  # below the captions of the first image
    brightness = [view[8:, 20:-20].mean() for view in views]
    assert brightness[0] < 0.4 * min(brightness[1:])


@pytest.mark.slow
def test_logged_ap_is_that_of_the_commands(dark_run, scenes, tmp_path):
    with (dark_run / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("val/segm_map")]
    logged = {kind: float(rows[-1][f"val/{kind}_map"]) for kind in ("segm", "box")}
    checkpoint = dark_run / "checkpoints" / "last.ckpt"
    lights = {
        light: scored("coco", checkpoint, scenes, tmp_path, *flags)["metrics"]
        for light, flags in (("own", []), ("dark", ["--light", "dark"]),
                             ("normal", ["--light", "normal"]))
    }  # fmt: skip
    figure = tmp_path / "bits.png"
    record = scored(
        "low-light", checkpoint, scenes, tmp_path, "--ratios", 8, "--bits", 8, 14,
        "--figure", figure,
    )  # fmt: skip
    found = record["metrics"][str(checkpoint)]
    assert figure.stat().st_size > 5000
    for kind, value in logged.items():
        assert lights["own"][f"{kind}_map"] == lights["dark"][f"{kind}_map"] == value
        assert found[f"dark_{kind}_map"] == value
        assert found[f"normal_{kind}_map"] == lights["normal"][f"{kind}_map"]
        drop = found[f"normal_{kind}_map"] - found[f"dark_{kind}_map"]
        assert found[f"drop_{kind}_map"] == drop
    assert lights["normal"]["box_map"] != lights["dark"]["box_map"]
    places = [
        (cell["model"], cell["input"], cell["ratio"], cell["bits"]) for cell in record["cells"]
    ]
    assert places == [(str(checkpoint), "raw3", 8, 8), (str(checkpoint), "raw3", 8, 14)]
    assert set(record["cells"][0]) == {"model", "input", "ratio", "bits", "segm_map", "box_map"}


@pytest.mark.slow
def test_an_ordinary_folder_is_predicted_in_the_form_of_the_network(dark_run, scenes, tmp_path):
    """And not in the dark: photographs are what they are."""
    words = ["predict", "--ckpt_path", dark_run / "checkpoints" / "last.ckpt", "--data", scenes[0]]
    assert train.main([str(w) for w in (*words, "--runs_dir", tmp_path)]) == 0
    written = tmp_path / "predict" / "version_0" / "predictions" / "predict.json"
    rows = json.loads(written.read_text())
    found = tmp_path / "normal.json"
    more = ["--light", "normal", "--save-predictions", found]
    scored("coco", dark_run / "checkpoints" / "last.ckpt", scenes, tmp_path, *more)
    wanted = json.loads(found.read_text())
    assert sorted(row["score"] for row in rows) == sorted(row["score"] for row in wanted)


def test_a_network_of_three_channels_refuses_four(tmp_path, capsys):
    model = "--model.init_args.model"
    words = [model, "tests.support.colour_segmentor.ColourModel"]
    recipe = tmp_path / "plain.yaml"
    recipe.write_text(yaml.safe_dump({
        "model": {
            "class_path": "lightning_modules.segmentation.SegmentationModule",
            "init_args": {
                "model": {"class_path": words[1]},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            },
        },
        "data": {
            "class_path": "datamodules.seg.digit_scenes.DigitScenesDataModule",
            "init_args": {"val_scenes": 4, "low_light": {"input": "raw4"}},
        },
        "trainer": {"max_steps": 1},
        "checkpoint": {"monitor": "val/segm_map"},
    }))  # fmt: skip
    assert train.main(["fit", "--config", str(recipe), "--runs_dir", str(tmp_path)]) == 2
    assert "gives images of 4 channels, but ColourModel has no" in capsys.readouterr().err


class Trainer:
    """What the datamodule asks of a trainer."""

    def __init__(self, training=True, predicting=False, testing=False, current_epoch=0):
        self.training, self.predicting, self.testing = training, predicting, testing
        self.current_epoch = current_epoch


def test_batches_in_training_and_evaluation():
    options = {"input": "raw4", "clean": True, "evaluate": "normal"}
    data = DigitScenesDataModule(val_scenes=2, train_scenes=4, low_light=options, batch_size=2)
    plain = next(iter(data.train_dataloader()))
    assert data.in_channels == 4

    data.trainer = Trainer()
    first, same = (data.on_after_batch_transfer(plain, 0) for _ in range(2))
    assert torch.equal(first.images, same.images)
    assert first.images.shape[1] == first.clean_images.shape[1] == 4
    assert torch.equal(first.image(1).clean_images[0], first.clean_images[1])
    for name in ("boxes", "masks", "labels", "sizes"):
        assert torch.equal(getattr(first, name), getattr(plain, name))
    data.trainer = Trainer(current_epoch=1)
    other = data.on_after_batch_transfer(plain, 0)
    assert not torch.equal(other.images, first.images)
    data.trainer = Trainer(training=False)
    shown = data.on_after_batch_transfer(plain, 0)
    assert shown.clean_images is None
    data.low_light = data.low_light.of(options | {"evaluate": "dark"})
    dark = data.on_after_batch_transfer(plain, 0)
    assert not torch.equal(dark.images, shown.images)
    data.trainer = Trainer(training=False, predicting=True)
    assert torch.equal(data.on_after_batch_transfer(plain, 0).images, shown.images)
    data.already_dark = True
    assert data.on_after_batch_transfer(plain, 0) is plain


def test_mosaics_are_darkened_too():
    mosaic = MosaicOptions(size=64, close_epochs=0)
    data = DigitScenesDataModule(train_scenes=4, val_scenes=2, mosaic=mosaic, batch_size=2)
    plain = next(iter(data.train_dataloader()))
    data.low_light, data.trainer = LowLightOptions(input="srgb"), Trainer()
    dark = data.on_after_batch_transfer(plain, 0)
    assert dark.images.shape == plain.images.shape == (2, 3, 64, 64)
    assert dark.images.mean() < 0.5 * plain.images.mean()
    assert torch.equal(dark.masks, plain.masks)


def test_a_checkpoint_without_the_number_of_channels_has_three():
    module = SegmentationModule(ColourModel(3), torch.optim.SGD)
    checkpoint = {
        "segmil": {"blueprint": {"links": {"num_classes": 3}}, "facts": {}},
        "state_dict": module.state_dict(),
    }
    module.trainer = SimpleNamespace(state=SimpleNamespace(fn=None))
    for channels in (3, 4):
        module.blueprint = {"links": {"num_classes": 3, "in_channels": channels}}
        with (
            pytest.raises(ValueError, match="these data have .*'in_channels': 4")
            if (channels == 4)
            else contextlib.nullcontext()
        ):
            module.on_load_checkpoint(checkpoint)
