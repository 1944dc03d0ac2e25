"""Ground truth that is read once for scoring and for every checkpoint that predicts."""

import json

import pytest

import evaluate
from datamodules.seg.coco import CocoDataModule
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


_SHAPE = ("image_id", "category_id", "bbox", "segmentation")


def test_text_ids_give_the_scores_of_integers(folder, truth, images, tmp_path):
    """The numbers have the same width, so that texts and integers have the same order."""

    def renamed(content):
        for image in content["images"]:
            image["id"] = f"picture/{image['id']:06}"
        for annotation in content["annotations"]:
            annotation["image_id"] = f"picture/{annotation['image_id']:06}"

    file, scores = altered(truth, renamed), []
    rows = [predict_coco(folder / "one.ckpt", each, images).rows for each in (truth, file)]
    assert [row["image_id"] for row in rows[1]] == [f"picture/{r['image_id']:06}" for r in rows[0]]
    for annotations, found in ((truth, rows[0]), (file, rows[1])):
        results, out = tmp_path / "results.json", tmp_path / "out.json"
        right = json.loads(annotations.read_text())["annotations"][:3]  # some that are found
        sure = [found[0] | {k: a[k] for k in _SHAPE} | {"score": 1.0} for a in right]
        results.write_text(json.dumps(sure + found))
        for command in ("coco", "operating-point"):
            words = [command, "--predictions", results, "--annotations", annotations, "--out", out]
            assert evaluate.main([*map(str, words)]) == 0
            scores.append(list(json.loads(out.read_text())["metrics"].values()))
    assert scores[:2] == scores[2:]
    assert max(value for value in scores[0] if value) > 0.1


def test_evaluation_repairs_as_training_does(folder, truth, images, tmp_path, capsys):
    def spoil(content):
        first, second, third = content["annotations"][:3]
        first["segmentation"] = [[1, 1, 4, 4], [-20, 5, 30, 5, 30, 40, -20, 40]]
        del second["bbox"]
        third["segmentation"]["size"] = [1, 1]

    file = altered(truth, spoil)
    out = tmp_path / "out.json"
    words = ["coco", "--ckpt", folder / "one.ckpt", "--annotations", file, "--images", images]
    words = [*map(str, [*words, "--out", out, "--bad-data", "repair"])]
    assert evaluate.main(words) == 0
    record = json.loads(out.read_text())
    assert (record["skipped"], record["repaired"]) == ({str(file): 1}, {str(file): 1})
    assert f"repaired: 1 problem(s) of {file}" in capsys.readouterr().out
    content, problems = read_to_predict(file, images, "repair")
    assert [(p.annotation, p.repaired) for p in problems] == [
        (content["annotations"][0]["id"], True),
        (content["annotations"][1]["id"], True),  # a box is needed where boxes are scored
        (content["annotations"][1]["id"] + 1, False),
    ]
    paths = {"train_annotations": file, "train_images": images}
    trained = CocoDataModule(**paths, bad_data="repair").ground_truth("train")["annotations"]
    assert [a["id"] for a in trained] == [a["id"] for a in content["annotations"]]
    assert [a["bbox"] for a in trained] == [a["bbox"] for a in content["annotations"]]
    assert trained[0]["bbox"] == [0, 5, 30, 35]
    assert len(trained) == len(json.loads(truth.read_text())["annotations"]) - 1


@pytest.mark.parametrize("inside", ["images/train2017", "train2017"])
def test_the_folder_of_the_images_follows_from_the_layout(tmp_path, inside):
    (tmp_path / inside).mkdir(parents=True)
    file = tmp_path / "annotations" / "instances_train2017.json"
    assert image_folder_of(file) == tmp_path / inside
    assert image_folder_of(tmp_path / "valid" / "_annotations.coco.json") == tmp_path / "valid"
