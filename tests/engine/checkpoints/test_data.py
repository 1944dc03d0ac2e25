"""Data sections that apply a checkpoint to a path, of whichever datamodule reads it."""

from pathlib import Path

import pytest

from engine.checkpoints.data import data_at, own_data, takes

MAP = {"ids": [1], "names": ["a"]}
IMAGES = {
    "category_map": MAP,
    "preprocessing": {"scale": 2.0},
    "categories": {"categories": ["a"], "class_agnostic": False},
}
BLUEPRINT = {
    "links": {"task": "multiclass", "num_classes": 2, "in_features": 3},
    "data": {"class_path": "datamodules.mil.digit_bags.DigitBagsDataModule", "init_args": {}},
}


def test_other_data_get_the_checkpoints_preprocessing():
    seg = data_at(Path("folder"), {"facts": IMAGES})
    assert seg["class_path"] == "datamodules.seg.image_folder.ImageFolderDataModule"
    assert seg["init_args"] == {"scale": 2.0, "category_map": MAP, "root": "folder"}


def test_a_coco_file_is_read_with_the_folder_of_its_images():
    seg = data_at(Path("file.json"), {"facts": IMAGES}, Path("images"))
    assert seg["class_path"] == "datamodules.seg.coco.CocoDataModule"
    assert seg["init_args"] == {
        "scale": 2.0, "category_map": MAP, "categories": ["a"], "class_agnostic": False,
        "test_annotations": "file.json", "test_images": "images",
    }  # fmt: skip


def test_other_bags_get_the_checkpoints_preprocessing_and_classes():
    known = {"class_names": ["n", "p"], "task": "multiclass"}
    prepared = {"eval_batch_size": 3, "mean": [1.0], "std": [2.0], "clip": None}
    facts = {"preprocessing": prepared, "class_names": ["n", "p"]}
    mil = data_at(Path("bags.npz"), {"facts": facts, "blueprint": BLUEPRINT})
    assert mil["class_path"] == "datamodules.mil.npz.TabularBagsDataModule"
    assert mil["init_args"] == prepared | known | {"file": "bags.npz"}
    with pytest.raises(ValueError, match=r"s\.csv: the checkpoint standardises"):
        data_at(Path("s.csv"), {"facts": facts, "blueprint": BLUEPRINT})
    slides = {"eval_batch_size": 3, "standardise": False, "bag": "patient", "features_key": "f"}
    facts["preprocessing"] = slides
    mil = data_at(Path("bags.npz"), {"facts": facts, "blueprint": BLUEPRINT})
    assert mil["init_args"] == known | {
        "eval_batch_size": 3, "standardise": False, "file": "bags.npz",
    }  # fmt: skip
    mil = data_at(Path("s.CSV"), {"facts": facts, "blueprint": BLUEPRINT})
    assert mil["class_path"] == "datamodules.mil.features.FeatureBagsDataModule"
    del slides["standardise"]
    assert mil["init_args"] == slides | known | {"table": "s.CSV"}


def test_features_are_looked_for_beside_the_table_then_where_training_had_them(tmp_path):
    facts = {"preprocessing": {}, "class_names": []}
    (tmp_path / "old" / "features").mkdir(parents=True)
    (tmp_path / "named").mkdir()
    table, old = tmp_path / "new" / "s.csv", tmp_path / "old"

    def found(given=None, **arguments):
        blueprint = BLUEPRINT | {"data": {"init_args": arguments}}
        section = data_at(table, {"facts": facts, "blueprint": blueprint}, given)
        return section["init_args"].get("features")

    assert found(table=str(old / "t.csv")) == str(old / "features")
    assert found(table=str(old / "t.csv"), features=str(tmp_path / "named")) == str(
        tmp_path / "named"
    )
    assert found(table="gone/t.csv", features="gone") is None
    assert found(Path("told"), table=str(old / "t.csv")) == "told"
    (tmp_path / "new" / "features").mkdir(parents=True)
    assert found(table=str(old / "t.csv")) is None


def test_a_path_that_nothing_reads_is_refused():
    with pytest.raises(ValueError, match=r"^x\.npz: no datamodule reads it"):
        data_at(Path("x.npz"), {"facts": {"preprocessing": {}}, "blueprint": BLUEPRINT})


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("coco.CocoDataModule", True),
        ("yolo_txt.YoloTxtDataModule", True),
        ("digit_scenes.DigitScenesDataModule", False),
        ("gone.DataModule", False),
    ],
)
def test_the_data_of_the_training_get_its_categories_where_they_take_them(kind, told):
    data = {"class_path": f"datamodules.seg.{kind}", "init_args": {"batch_size": 2}}
    found = own_data({"facts": IMAGES, "blueprint": {"data": data}})
    assert found == data | {
        "init_args": {"batch_size": 2} | ({"category_map": MAP} if told else {})
    }
    assert "category_map" not in data["init_args"]


def test_bags_have_no_categories_to_take():
    facts = {"preprocessing": {}, "class_names": []}
    assert own_data({"facts": facts, "blueprint": BLUEPRINT}) == BLUEPRINT["data"]


def test_a_class_that_is_not_there_takes_no_argument():
    assert takes({"class_path": "datamodules.mil.features.FeatureBagsDataModule"}, "features")
    assert not takes({"class_path": "datamodules.mil.npz.TabularBagsDataModule"}, "features")
    assert not takes({"class_path": "nothere.Data"}, "features")
    assert not takes({}, "features")
