"""Overlays of data change where the data come from and nothing else."""

from pathlib import Path

import pytest
import yaml

import evaluate
import train
from engine.training.check_data import RecipeReader
from tests.faults import sets, yolo

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted((ROOT / "configs/_base/data").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


NAMED = {  # what a class needs besides its recipe
    "feature_bags": ["--data.table", "slides.csv"],
    "tabular_bags": ["--data.file", "bags.npz"],
}


def data_of(*files, source=""):
    words = [word for file in files for word in ("--config", f"configs/{file}.yaml")]
    return RecipeReader(["fit", *words, *NAMED.get(source, [])]).data


MORE = {  # arguments that say which part of a set it is
    "coco_open_world": {"known", "class_agnostic"},
    "digit_open_world": {"known", "class_agnostic"},
    "lis": {"light", "source"},
}


def test_they_name_a_class_and_what_part_of_the_data():
    for file in OVERLAYS:
        data = yaml.safe_load(file.read_text())["data"]
        assert data.pop("init_args", {}).keys() == MORE.get(file.stem, set()), file.name
        assert [*data] == ["class_path"], file.name


@pytest.mark.parametrize(
    ("recipe", "source", "overlay", "lost"),
    [
        ("seg/yolo_n", "coco", "yolo_txt", set()),
        ("seg/mask_rcnn_nuclei", "coco", "yolo_txt", set()),
        ("quickstart/yolo", "digit_scenes", "coco", set()),
        ("mil/ins", "feature_bags", "tabular_bags", set()),
        ("mil/abmil", "tabular_bags", "feature_bags", {"standardise", "clip"}),  # of npz alone
    ],
)
def test_sizes_batches_and_augmentation_are_those_of_the_recipe(recipe, source, overlay, lost):
    before = data_of(recipe, source=source)
    after = data_of(recipe, f"_base/data/{overlay}", source=overlay)
    assert before["class_path"] != after["class_path"]
    given = yaml.safe_load((ROOT / f"configs/{recipe}.yaml").read_text())["data"]["init_args"]
    for name, value in before["init_args"].items():
        if name in after["init_args"]:
            assert after["init_args"][name] == value, name
        elif name in given:
            assert name in lost


def test_small_variants_change_sizes_and_batches_of_any_data():
    data = data_of("seg/yolo_n", "_base/data/digit_scenes", "_base/small_images")["init_args"]
    assert (data["batch_size"], data["max_long_side"], data["mosaic"]) == (4, None, None)
    assert data["mask_stride"] == 4
    data = data_of("mil/mhim", "_base/data/digit_bags", "_base/small_bags")["init_args"]
    assert (data["batch_size"], data["eval_batch_size"]) == (8, 64)


@pytest.mark.parametrize("recipe", ["yolo_n", "mask_rcnn_nuclei"])
def test_the_path_of_a_data_yaml_counts_although_there_is_a_folder_data(
    tmp_path, monkeypatch, capsys, recipe
):
    """The folders ``data`` and ``data/coco`` used to be the root of the recipes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "coco").mkdir(parents=True)
    file = yolo.write_yolo(tmp_path / "elsewhere" / "set") / "data.yaml"
    file.write_text(f"path: {tmp_path}/elsewhere/set\n{file.read_text()}")
    file = file.rename(tmp_path / "mine.yaml")
    words = ["check-data", "--config", f"configs/seg/{recipe}.yaml"]
    words += ["--config", "configs/_base/data/yolo_txt.yaml"]
    assert evaluate.main([*words, "--data.data_yaml", str(file)]) == 0
    assert "no problem found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overlay", "flag"), [("", "--data.root"), ("yolo_txt", "--data.data_yaml")]
)
def test_data_that_are_not_named_are_asked_for(capsys, overlay, flag):
    words = ["check-data", "--config", "configs/seg/yolo_n.yaml"]
    words += ["--config", f"configs/_base/data/{overlay}.yaml"] if overlay else []
    assert evaluate.main(words) == 2
    shown = capsys.readouterr().err
    assert "data.root names no folder" in shown
    assert flag in shown


def test_a_step_of_eight_images_has_an_eighth_of_the_loss_of_64(tmp_path, caplog):
    root = sets.write_coco(tmp_path)
    words = ["fit", "--config", "configs/seg/yolo_n.yaml", "--data.root", str(root), *sets.ONE_STEP]
    words += ["--data.batch_size", "2", "--data.mosaic", "null", "--data.num_workers", "0"]
    words += ["--model.init_args.model.init_args.scale.depth", "0.33"]
    words += ["--model.init_args.model.init_args.scale.width", "0.125"]
    words += ["--model.init_args.model.init_args.scale.max_channels", "1024"]
    assert train.main([*words, "--debug"]) == 0
    assert "factor of the loss weights: 0.125 for 8 = 2 x 1 x 4" in caplog.text
