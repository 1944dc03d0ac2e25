"""Equal data give equal words, different data different ones."""

import inspect
import json
import shutil

import pytest

from datamodules import fingerprint as module
from datamodules.fingerprint import fingerprint
from datamodules.mil.digit_bags import DigitBagsDataModule
from datamodules.mil.features import FeatureBagsDataModule
from datamodules.mil.npz import TabularBagsDataModule
from datamodules.seg.coco import CocoDataModule


def coco(folder, note="x"):
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "annotations").mkdir()
    (folder / "images" / "train" / "1.png").write_bytes(b"12345")
    (folder / "annotations" / "instances_train.json").write_text(json.dumps({"info": note}))
    return {"root": str(folder)}


def test_generated_data_are_their_arguments():
    plain = fingerprint(DigitBagsDataModule, {})
    assert len(plain) == 16
    assert plain == fingerprint(DigitBagsDataModule, {"train_bags": 200, "batch_size": 3})
    assert plain != fingerprint(DigitBagsDataModule, {"train_bags": 201})
    assert plain != fingerprint(DigitBagsDataModule, {"bag_seed": 1})


def test_a_copy_elsewhere_is_the_same(tmp_path):
    first = coco(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    second = {"root": str(tmp_path / "two"), "num_workers": 7}
    assert fingerprint(CocoDataModule, first) == fingerprint(CocoDataModule, second)
    wide = first | {"categories": ["cat"]}
    assert fingerprint(CocoDataModule, first) != fingerprint(CocoDataModule, wide)


@pytest.mark.parametrize("change", ["annotation", "size", "name", "new", "lost link"])
def test_every_change_of_a_folder_counts(tmp_path, change):
    given = coco(tmp_path / "set")
    before = fingerprint(CocoDataModule, given)
    image = tmp_path / "set" / "images" / "train" / "1.png"
    if change == "annotation":  # of the same length
        (tmp_path / "set" / "annotations" / "instances_train.json").write_text('{"info": "y"}')
    elif change == "size":
        image.write_bytes(b"123456")
    elif change == "name":
        image.rename(image.with_name("2.png"))
    elif change == "new":
        image.with_name("2.png").write_bytes(b"1")
    else:
        image.with_name("2.png").symlink_to("nowhere")
    assert fingerprint(CocoDataModule, given) != before


def test_files_count_by_their_bytes(tmp_path):
    one, other = tmp_path / "a.npz", tmp_path / "b.npz"
    one.write_bytes(b"abc")
    other.write_bytes(b"abc")
    words = [fingerprint(TabularBagsDataModule, {"file": str(p)}) for p in (one, other)]
    assert words[0] == words[1]
    other.write_bytes(b"abd")
    assert fingerprint(TabularBagsDataModule, {"file": str(other)}) != words[0]


def test_of_large_files_the_ends_and_the_size_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WHOLE", 10)
    monkeypatch.setattr(module, "_END", 3)
    file = tmp_path / "a.npz"

    def word(content):
        file.write_bytes(content)
        return fingerprint(TabularBagsDataModule, {"file": str(file)})

    whole = word(b"0123456789ab")
    assert word(b"0123x56789ab") == whole
    assert word(b"0123456789ac") != whole
    assert word(b"1123456789ab") != whole
    assert word(b"0123456789aab") != whole


def test_a_new_option_that_is_off_leaves_old_words_as_they_are():
    def made(*names):
        given = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in names]
        return type("Data", (), {"__signature__": inspect.Signature(given)})

    old, new = made("size"), made("size", "option")
    assert fingerprint(old, {"size": 3}) == fingerprint(new, {"size": 3})
    assert fingerprint(new, {"size": 3}) != fingerprint(new, {"size": 3, "option": 0})


def test_an_argument_that_was_added_changes_the_hash_by_other_values_alone(write_slides):
    given = {"table": str(write_slides(4))}
    known = fingerprint(FeatureBagsDataModule, given)
    assert fingerprint(FeatureBagsDataModule, given | {"patient_label": "same"}) == known
    assert fingerprint(FeatureBagsDataModule, given | {"patient_label": "max"}) != known

    class Before(FeatureBagsDataModule):
        """The class without the argument."""

    parameters = dict(inspect.signature(FeatureBagsDataModule).parameters)
    del parameters["patient_label"]
    Before.__name__ = FeatureBagsDataModule.__name__
    Before.__signature__ = inspect.Signature(list(parameters.values()))
    assert fingerprint(Before, given) == known
