"""`train.py predict` on a folder of images: the COCO file, overlays, flags and last lines."""

import json
import weakref

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import train
from datamodules.seg import image_folder
from tests.support.tiny_checkpoints import YOLO, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("ckpt") / "yolo.ckpt", YOLO, liven=1.0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five images of three sizes; two names differ only in their suffix, one is long."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    names = {"a.png": (64, 96), "a.jpg": (64, 96), "b.png": (100, 60), "c.bmp": (64, 64)}
    for name, size in (names | {"my photo.png": (64, 64)}).items():
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def predict(checkpoint, images, out, *flags):
    words = ["predict", "--ckpt_path", checkpoint, "--data", images, "--runs_dir", out, *flags]
    return train.main([str(word) for word in words])


@pytest.fixture(scope="module")
def scores(checkpoint, images, tmp_path_factory):
    """All scores, highest first, of the results file, which is complete."""
    out = tmp_path_factory.mktemp("runs")
    assert predict(checkpoint, images, out, "--overlays", "none") == 0
    assert not (out / "predict/version_0/predictions/overlays").exists()
    rows = json.loads((out / "predict/version_0/predictions/predict.json").read_text())
    assert len(rows) == 90  # at most 20 for each image
    return sorted((row["score"] for row in rows), reverse=True)


@pytest.fixture(scope="module")
def written(checkpoint, images, scores, tmp_path_factory):
    """The folder of predictions above a score that 30 of 90 reach, and that score."""
    out, lowest = tmp_path_factory.mktemp("runs"), scores[29]
    assert predict(checkpoint, images, out, "--score", lowest) == 0
    return out / "predict" / "version_0" / "predictions", lowest


@pytest.mark.slow
def test_one_coco_file_has_images_categories_and_annotations(written, images, scores):
    folder = written[0]
    coco = COCO(folder / "predict_coco.json")
    sizes = {i["file_name"]: (i["width"], i["height"]) for i in coco.imgs.values()}
    assert sizes == {p.name: Image.open(p).size for p in images.iterdir()}
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list("0123456789")
    assert len(coco.anns) == 30
    assert sorted((a["score"] for a in coco.anns.values()), reverse=True) == scores[:30]
    for annotation in coco.anns.values():
        record = coco.imgs[annotation["image_id"]]
        mask = coco.annToMask(annotation)
        assert mask.shape == (record["height"], record["width"])
        assert mask.sum() == annotation["area"]
        assert annotation["iscrowd"] == 0
    rows = json.loads((folder / "predict.json").read_text())
    assert len(rows) == 90  # the results file does not depend on the score


def test_all_images_have_overlays_named_by_their_file(written):
    names = {p.name for p in (written[0] / "overlays").iterdir()}
    assert names == {"a.jpg.png", "a.png.png", "b.png", "c.png", "my photo.png"}


@pytest.mark.parametrize(
    ("overlays", "count"), [("2", 2), pytest.param("all", 5, marks=pytest.mark.slow)]
)
def test_a_number_of_overlays(overlays, count, checkpoint, images, tmp_path):
    assert predict(checkpoint, images, tmp_path, "--overlays", overlays, "--score", "0.0") == 0
    folder = tmp_path / "predict/version_0/predictions/overlays"
    assert len(list(folder.iterdir())) == count


def test_the_last_lines_say_what_was_found_and_where(checkpoint, images, tmp_path, capsys):
    assert predict(checkpoint, images, tmp_path, "--score", "1", "--overlays", "0") == 0
    found, where = capsys.readouterr().out.splitlines()[-2:]
    assert found.startswith("0 objects with a score of 1 or more in 0 of 5 images; the highest ")
    assert where == f"written to {tmp_path / 'predict/version_0/predictions'}"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--score", "2"], "--score is a number from 0 to 1, got 2"),
        (["--score=high"], "--score is a number from 0 to 1, got high"),
        (["--overlays", "some"], "--overlays is a number of images, all or none, got some"),
        (["--overlays", "-1"], "--overlays is a number of images, all or none, got -1"),
    ],
)
def test_wrong_flags_are_refused(flags, message, checkpoint, images, tmp_path, capsys):
    assert predict(checkpoint, images, tmp_path, *flags) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_long_folder_is_not_held_in_memory(checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(24):
        Image.new("RGB", (32, 32)).save(folder / f"{number:02d}.png")
    held, most, read = weakref.WeakSet(), [], image_folder.read_rgb

    class Kept(np.ndarray):  # hashable by identity, for the set
        __hash__ = object.__hash__

    def watched(*arguments, **options):
        image = read(*arguments, **options).view(Kept)
        held.add(image)
        most.append(len(held))
        return image

    monkeypatch.setattr(image_folder, "read_rgb", watched)
    assert predict(checkpoint, folder, tmp_path, "--score", "0") == 0
    assert len(most) == 48  # to predict and to draw
    assert max(most) <= 4
