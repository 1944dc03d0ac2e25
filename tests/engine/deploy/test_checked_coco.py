"""Ground truth that is read once for scoring and for every checkpoint that predicts."""

import json

import pytest

from datamodules.seg.digit_scenes import DigitScenesDataModule
from engine.deploy.checked_coco import image_folder_of, read_to_predict
from engine.deploy.predict import predict_coco
from structures import DataProblems
from tests.support.tiny_checkpoints import YOLO, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint and scenes of digits."""
    root = tmp_path_factory.mktemp("checked")
    write_checkpoint(root / "one.ckpt", YOLO, liven=1.0)
    DigitScenesDataModule(test_scenes=3).write_split("test", root)
    return root


@pytest.fixture
def truth(folder):
    return folder / "annotations" / "instances_test.json"


@pytest.fixture
def images(folder):
    return folder / "images" / "test"


def altered(truth, change):
    content = json.loads(truth.read_text())
    change(content)
    file = truth.with_name("instances_altered.json")
    file.write_text(json.dumps(content))
    return file


def test_the_predictions_are_those_of_a_datamodule_that_reads_the_file(folder, truth, images):
    assert image_folder_of(truth) == images
    content, problems = read_to_predict(truth, None)
    assert content == json.loads(truth.read_text())
    assert problems == ()
    alone = predict_coco(folder / "one.ckpt", truth, None)
    together = predict_coco(folder / "one.ckpt", truth, None, truth=content)
    assert alone == together
    assert len(alone.rows) > 3


def test_masks_are_needed_unless_faults_are_skipped(folder, truth, images):
    file = altered(truth, lambda content: content["annotations"][0].pop("segmentation"))
    with pytest.raises(DataProblems, match="lacks segmentation"):
        read_to_predict(file, images)
    content, problems = read_to_predict(file, images, "skip")
    assert problems == ()  # its box can be scored
    assert content == json.loads(file.read_text())
    known = predict_coco(folder / "one.ckpt", file, images, truth=content).ground_truth
    assert len(known["annotations"]) == len(content["annotations"]) - 1


def test_faulty_images_are_left_out_and_not_predicted(folder, truth, images):
    def damage(content):
        whole = images / content["images"][1]["file_name"]
        whole.with_name("cut.png").write_bytes(whole.read_bytes()[:2000])
        content["images"][1]["file_name"] = "cut.png"
        content["images"][2].pop("file_name")

    file = altered(truth, damage)
    with pytest.raises(DataProblems, match="lacks file_name"):
        read_to_predict(file, images)
    content, problems = read_to_predict(file, images, "skip")
    first = content["images"][0]["id"]
    assert [image["id"] for image in content["images"]] == [first]
    assert len(problems) == 2
    found = predict_coco(folder / "one.ckpt", file, images, bad_data="skip", truth=content)
    assert {row["image_id"] for row in found.rows} == {first}


def test_an_image_is_needed(folder, truth, tmp_path):
    with pytest.raises(DataProblems, match="no image is left; fix some of them"):
        read_to_predict(truth, folder, "skip")
    with pytest.raises(ValueError, match="cannot guess the image folder; give it by --images"):
        read_to_predict(tmp_path / "one.json", None)


def test_a_checkpoint_of_other_classes_is_refused(folder, truth, images):
    def rename(content):
        content["categories"][3]["name"] = "pear"

    file = altered(truth, rename)
    content, _ = read_to_predict(file, images)
    with pytest.raises(ValueError, match="is 'pear' here"):
        predict_coco(folder / "one.ckpt", file, images, truth=content)
