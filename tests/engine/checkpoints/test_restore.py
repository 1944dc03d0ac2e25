"""Checkpoints that are not ours, and the small pieces of rebuilding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import Namespace

from engine.checkpoints.data import bags_at, data_at
from engine.checkpoints.restore import read_record
from engine.config.sections import (
    instantiate_data,
    place,
    plain,
    read_data_section,
    without_sources,
)


def test_plain_turns_everything_into_containers_and_scalars():
    config = Namespace(a=Namespace(b=(1, 2)), path=Path("x/y"), none=None, flag=True)
    expected = {"a": {"b": [1, 2]}, "path": "x/y", "none": None, "flag": True}
    assert plain(config) == expected


def test_place_sets_a_nested_value():
    config = {"init_args": {"model": {"init_args": {"num_classes": None}}}}
    place(config, "init_args.model.init_args.num_classes", 7)
    assert config["init_args"]["model"]["init_args"]["num_classes"] == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, "not a segmil checkpoint"),
        ({"segmil": {"format": 1, "blueprint": None}}, "not a segmil checkpoint"),
        ({"segmil": {"format": 99, "blueprint": {}}}, "checkpoint format 99"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "c.ckpt")
    with pytest.raises(ValueError, match=f"c.ckpt: {message}"):
        read_record(tmp_path / "c.ckpt")


def test_other_data_get_the_checkpoints_preprocessing():
    pictures = {"category_map": {"ids": [1], "names": ["a"]}, "preprocessing": {"scale": 2.0}}
    seg = data_at(Path("folder"), {"facts": pictures})
    assert seg["class_path"] == "datamodules.seg.image_folder.PictureFolderDataModule"
    assert seg["init_args"]["scale"] == 2.0
    assert seg["init_args"]["category_map"] == {"ids": [1], "names": ["a"]}


BLUEPRINT = {
    "links": {"task": "multiclass", "num_classes": 2, "in_features": 3},
    "data": {"class_path": "datamodules.mil.digit_bags.DigitBagsDataModule", "init_args": {}},
}


def test_other_bags_get_the_checkpoints_preprocessing_and_classes(tmp_path):
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
    mil = data_at(Path("s.csv"), {"facts": facts, "blueprint": BLUEPRINT})
    assert mil["class_path"] == "datamodules.mil.features.FeatureBagsDataModule"
    del slides["standardise"]
    assert mil["init_args"] == slides | known | {"table": "s.csv"}


def test_features_are_looked_for_beside_the_table_then_where_training_had_them(tmp_path):
    facts = {"preprocessing": {}, "class_names": []}
    (tmp_path / "old" / "features").mkdir(parents=True)
    (tmp_path / "named").mkdir()
    table, old = tmp_path / "new" / "s.csv", tmp_path / "old"

    def found(given=None, **arguments):
        section = bags_at(table, facts, BLUEPRINT["links"], {"init_args": arguments}, given)
        return section["init_args"].get("features")

    assert found(table=str(old / "t.csv")) == str(old / "features")
    assert found(table=str(old / "t.csv"), features=str(tmp_path / "named")) == str(
        tmp_path / "named"
    )
    assert found(table="gone/t.csv", features="gone") is None
    assert found(Path("told"), table=str(old / "t.csv")) == "told"
    (tmp_path / "new" / "features").mkdir(parents=True)
    assert found(table=str(old / "t.csv")) is None


def test_a_recipe_without_usable_data_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    with pytest.raises(ValueError, match="r.yaml: No such file"):
        read_data_section(path)
    path.write_text("model: {}\n")
    with pytest.raises(ValueError, match="r.yaml: the recipe has no `data`"):
        read_data_section(path)
    path.write_text("data: [\n")
    with pytest.raises(ValueError, match="r.yaml: is no YAML"):
        read_data_section(path)
    wrong = {
        "class_path": "datamodules.mil.digit_bags.DigitBagsDataModule",
        "init_args": {"targett": 3},
    }
    with pytest.raises(ValueError, match="targett"):
        instantiate_data(wrong, {})


def test_the_files_a_model_once_started_from_are_not_needed_again():
    config = {
        "class_path": "M",
        "init_args": {
            "init_from": "gone.pt",
            "model": {"init_args": {"backbone": {"weights": "gone.pth", "pretrained": True}}},
        },
    }
    clean = without_sources(config)
    assert clean["init_args"]["init_from"] is None
    backbone = clean["init_args"]["model"]["init_args"]["backbone"]
    assert backbone == {"weights": None, "pretrained": False}
    assert config["init_args"]["init_from"] == "gone.pt"


def test_preprocessing_of_the_checkpoint_wins_over_the_recipe(tmp_path):
    path = tmp_path / "bags.npz"
    np.savez(path, X=np.arange(20.0).reshape(10, 2), bag_index=np.arange(10), y=np.arange(10) % 2)
    section = {
        "class_path": "datamodules.mil.npz.TabularBagsDataModule",
        "init_args": {"file": str(path)},
    }
    statistics = {"mean": [1.0, 2.0], "std": [3.0, 4.0], "clip": None, "eval_batch_size": 5}
    data = instantiate_data(section, statistics)
    assert data.evaluation_arguments() == statistics
