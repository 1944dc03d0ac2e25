from pathlib import Path

import pytest

import datamodules.mil
from datamodules.mil.base import MILDataModule
from datamodules.mil.digit_bags import DigitBagsDataModule
from datamodules.mil.features import FeatureBagsDataModule
from datamodules.mil.npz import TabularBagsDataModule
from datamodules.readers import arguments_of, path_readers
from datamodules.seg.base import SegDataModule
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.seg.image_folder import ImageFolderDataModule
from datamodules.seg.lis import LISDataModule
from engine.checkpoints.data import data_at

BAGS = {
    "facts": {"preprocessing": {"eval_batch_size": 3}, "class_names": ["n", "p"]},
    "blueprint": {"links": {"task": "binary"}, "data": {"class_path": "", "init_args": {}}},
}
NEW = """
from datamodules.mil.npz import TabularBagsDataModule


class Listed(TabularBagsDataModule):
    path_argument = "listing"
    asked_last = False

    def __init__(self, listing, **options):
        super().__init__(listing, **options)

    @classmethod
    def section_for(cls, path, record, folder=None):
        if path.suffix != ".lst":
            return None
        return cls.section(cls.arguments_like(record) | {"listing": str(path)})


class Inherits(TabularBagsDataModule):
    pass
"""


def test_those_that_know_their_paths_are_asked_before_those_that_take_any():
    readers = path_readers()
    last = {CocoDataModule, ImageFolderDataModule, TabularBagsDataModule}
    assert set(readers[:2]) == {FeatureBagsDataModule, LISDataModule}
    assert set(readers[2:]) == last


def test_data_without_a_path_read_none():
    for kind in (DigitBagsDataModule, MILDataModule, SegDataModule):
        assert kind.section_for(Path("x.npz"), BAGS) is None
        assert kind.path_argument is None


@pytest.mark.parametrize("reader", path_readers())
def test_the_section_names_the_class_and_the_path(reader):
    seg = {"preprocessing": {}, "category_map": {}, "categories": {}}
    record = BAGS if issubclass(reader, MILDataModule) else {"facts": seg}
    folder = Path("images") if issubclass(reader, CocoDataModule) else None
    path = Path("lis_coco_JPG_test.json" if reader is LISDataModule else "x.csv")
    section = reader.section_for(path, record, folder)
    assert section["class_path"] == f"{reader.__module__}.{reader.__name__}"
    assert section["init_args"][reader.path_argument] == str(path)
    other = {"facts": seg} if record is BAGS else BAGS
    assert reader.section_for(path, other, folder) is None


class Top:
    def __init__(self, first, *, second=2):
        pass


class Passes(Top):
    def __init__(self, third, **shared):
        super().__init__(**shared)


class Closes(Top):
    def __init__(self, third):
        super().__init__(third)


def test_arguments_are_those_of_the_class_and_those_it_passes_on():
    assert arguments_of(Passes) == {"first", "second", "third"}
    assert arguments_of(type("Below", (Passes,), {})) == {"first", "second", "third"}
    assert arguments_of(Closes) == {"third"}
    assert {"file", "clip", "eval_batch_size"} <= arguments_of(TabularBagsDataModule)
    assert "features" not in arguments_of(TabularBagsDataModule)


def test_a_new_module_reads_its_own_suffix(monkeypatch, tmp_path):
    monkeypatch.setattr(datamodules.mil, "__path__", [*datamodules.mil.__path__, str(tmp_path)])
    (tmp_path / "listed.py").write_text(NEW)
    names = [reader.__name__ for reader in path_readers()]
    assert "Listed" in names[:3]
    assert "Inherits" not in names
    found = data_at(Path("b.lst"), BAGS)
    assert found["class_path"] == "datamodules.mil.listed.Listed"
    assert found["init_args"] == {
        "eval_batch_size": 3, "class_names": ["n", "p"], "task": "binary", "listing": "b.lst",
    }  # fmt: skip
    assert data_at(Path("b.npz"), BAGS)["init_args"]["file"] == "b.npz"


def test_the_text_of_a_datamodule_builds_no_loader(monkeypatch):
    """Lightning's text does, and the command line asks for it at the start of every run."""
    for data in (DigitBagsDataModule(), DigitScenesDataModule()):
        for name in ("train", "val", "test", "predict"):
            monkeypatch.setattr(data, f"{name}_dataloader", None)
        assert str(data) == type(data).__name__
