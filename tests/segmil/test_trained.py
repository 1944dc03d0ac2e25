"""Predictions from Python are those of the command."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import segmil
import train
from engine.deploy.single import feature_bag
from lightning_modules.mil import MILModule
from structures import Instances
from tests.support.layers import ROOT
from tests.support.tiny_checkpoints import MASK_RCNN, YOLO, write_checkpoint

NAMES = ("negative", "positive")


def command(*words):
    assert train.main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number, size in enumerate([(64, 96), (64, 96), (100, 60)]):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", params=[YOLO, MASK_RCNN], ids=["yolo", "mask_rcnn"])
def predicted(request, images, tmp_path_factory):
    """A loaded model, and the folder that the command has written for the images."""
    out = tmp_path_factory.mktemp("runs")
    file = write_checkpoint(out / "a.ckpt", request.param, liven=1.0, preprocessing=SMALL)
    flags = ["--score", "0.001", "--data", images, "--runs_dir", out]
    command("predict", "--ckpt_path", file, *flags)
    return segmil.load(file, device="cpu"), out / "predict" / "version_0" / "predictions"


SMALL = {"eval_short_side": 48, "eval_batch_size": 2}


def same(one, other):
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.labels, other.labels)
    assert one.masks.to_coco() == other.masks.to_coco()


@pytest.mark.slow
def test_a_folder_gives_the_file_and_the_overlays_of_the_command(predicted, images, tmp_path):
    model, written = predicted
    found = model.predict(images)
    assert sorted(found) == ["0.png", "1.png", "2.png"]
    document = model.to_coco(found, score=0.001)
    assert document == json.loads((written / "predict_coco.json").read_text())
    assert document["annotations"]
    for name, instances in found.items():
        drawn = model.draw(images / name, instances, score=0.001)
        overlay = np.asarray(Image.open(written / "overlays" / name))
        np.testing.assert_array_equal(drawn, overlay)
    (tmp_path / "found.json").write_text(json.dumps(document))
    assert len(COCO(tmp_path / "found.json").imgs) == 3


def test_a_path_an_array_and_a_list_give_the_same(predicted, images):
    model, _ = predicted
    alone = model.predict(str(images / "0.png"))
    assert isinstance(alone, Instances)
    assert not alone.boxes.requires_grad
    pixels = np.asarray(Image.open(images / "0.png"))
    for image in (pixels, pixels / 255, (pixels / 255).astype(np.float32), torch.tensor(pixels)):
        same(model.predict(image), alone)
    first, second = model.predict([pixels, images / "1.png"])
    same(first, alone)
    same(second, model.predict(images / "1.png"))
    assert model.to_coco([first, second])["images"][1]["file_name"] == "image 2"
    assert model.to_coco(first)["images"] == [
        {"id": 1, "file_name": "image 1", "width": 96, "height": 64}
    ]


def test_the_example_of_the_readme(images, tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/mask_rcnn/version_0/checkpoints"
    folder.mkdir(parents=True)
    write_checkpoint(folder / "best.ckpt", YOLO)
    Image.open(images / "0.png").save("photo.jpg")
    names = {}
    exec(example, names)
    assert names["picture"].shape[2] == 3
    assert names["document"]["images"][0]["file_name"] == "photo.jpg"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"shape \(H, W, 3\), got \(8, 8\); repeat a grey"),
        (np.zeros((3, 8, 8), np.uint8), "move the channels to the end"),
        (np.zeros((8, 8, 3), np.int64), "uint8, or floating point in .0, 1., got int64"),
        (np.full((8, 8, 3), 255.0), r"values in \[0, 1\], got 255 to 255; divide by 255"),
        (np.full((8, 8, 3), np.nan), "got nan to nan"),
        ("nothing/here", "nothing/here is missing; give a folder of images or one image"),
    ],
)
def test_what_is_no_image_is_refused(image, message, predicted):
    with pytest.raises(ValueError, match=message):
        predicted[0].predict(image)


def test_a_device_that_is_not_there(predicted, tmp_path):
    file = write_checkpoint(tmp_path / "a.ckpt", YOLO)
    for device in ("cuda:99", "gpu"):
        with pytest.raises(ValueError, match=f"device '{device}' cannot be used .*; use auto or"):
            segmil.load(file, device=device)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Bags with features of unequal scale, which training standardises, and a model of them."""
    folder, random = tmp_path_factory.mktemp("bags"), np.random.default_rng(0)
    sizes = random.integers(2, 6, 40)
    bag = np.repeat(np.arange(40), sizes)
    label = np.arange(40) % 2
    scale = np.array([1.0, 100.0, 0.01])
    features = ((random.normal(size=(bag.size, 3)) + label[bag, None]) * scale + scale).astype("f4")
    np.savez(folder / "bags.npz", X=features, bag_index=bag, y=label)
    recipe = ["--config", "configs/mil/abmil.yaml", "--data.file", folder / "bags.npz"]
    quiet = [f"--callbacks.{name}=false" for name in ("curves", "attention", "confusion")]
    few = ["--trainer.max_epochs", "1", "--trainer.val_check_interval", "1", "--data.clip", "2.0"]
    command("fit", *recipe, *quiet, *few, "--runs_dir", folder)
    file = folder / "abmil" / "version_0" / "checkpoints" / "last.ckpt"
    command("predict", "--ckpt_path", file, "--data", folder / "bags.npz", "--runs_dir", folder)
    written = folder / "predict" / "version_0" / "predictions"
    return segmil.load(file, device="cpu"), features, bag, written


def test_a_bag_has_the_probability_and_the_attention_of_the_command(bags, tmp_path):
    model, features, bag, written = bags
    with (written / "bags.csv").open() as stream:
        scores = [float(row["score"]) for row in csv.DictReader(stream)]
    with (written / "attention.csv").open() as stream:
        attention = np.array([float(row["attention"]) for row in csv.DictReader(stream)])
    for number in (0, 7):
        found = model.predict(features[bag == number])
        assert tuple(found.probabilities) == NAMES
        assert found.probabilities["positive"] == pytest.approx(scores[number], abs=1e-6)
        assert sum(found.probabilities.values()) == pytest.approx(1)
        np.testing.assert_allclose(found.attention, attention[bag == number], atol=1e-6)
        np.save(tmp_path / "bag.npy", features[bag == number])
        torch.save(torch.tensor(features[bag == number]), tmp_path / "bag.pt")
        for file in ("bag.npy", "bag.pt"):
            assert model.predict(tmp_path / file).probabilities == found.probabilities


def test_the_module_of_the_file_is_the_one_that_is_loaded(bags):
    model, features, bag, written = bags
    file = written.parents[2] / "abmil" / "version_0" / "checkpoints" / "last.ckpt"
    module, loaded = MILModule.load_from_checkpoint(file), model.restored.module
    assert (module.class_names, module.task) == (loaded.class_names, loaded.task)
    assert module.threshold == loaded.threshold
    batch = feature_bag(features[bag == 3], model.restored)
    assert torch.equal(module.predict_step(batch, 0).logits, loaded.predict_step(batch, 0).logits)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((4, 2)), r"at least one row of 3 features, shape \(N, 3\); got \(4, 2\)"),
        (np.zeros((0, 3)), "at least one row"),
        (np.zeros(3), "at least one row"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), "row 1, column 1 is not finite"),
        ("nothing.npy", "nothing.npy: no such file"),
    ],
)
def test_what_is_no_bag_is_refused(features, message, bags):
    with pytest.raises(ValueError, match=message):
        bags[0].predict(features)
