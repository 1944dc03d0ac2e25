"""Times, values and grades of tables of slides and of npz files."""

import inspect

import numpy as np
import pytest

from datamodules.fingerprint import fingerprint
from datamodules.mil.digit_bags import DigitBagsDataModule
from datamodules.mil.features import FeatureBagsDataModule
from datamodules.mil.npz import TabularBagsDataModule
from engine.config.recipe import Recipe
from engine.cross_validation.inputs import BagInputs, inputs_once
from engine.cross_validation.recipe import LAST
from structures import DataProblems
from tests.support.mil_recipes import ROOT

TIMES = {"time": [3, 5, 2, 7, 9, 1, 4, 8], "event": [1, 0, 1, 0, 1, 0, 1, 1]}


@pytest.fixture
def npz(tmp_path):
    values = np.arange(16.0).reshape(8, 2)
    values[2, 1] = np.nan
    features = np.random.default_rng(0).normal(size=(16, 3))
    arrays = {name: np.array(column) for name, column in TIMES.items()}
    arrays |= {"X": features, "bag_index": np.repeat(np.arange(8), 2), "y": values}
    np.savez(tmp_path / "bags.npz", **arrays, target_names=np.array(["a", "b"]))
    return tmp_path / "bags.npz"


def slides(table, **options):
    return FeatureBagsDataModule(table, test_fraction=0, val_fraction=0, **options)


def test_times_and_events_or_flags_of_censoring(write_slides):
    data = slides(write_slides(8, label=None, **TIMES), task="discrete_time", time_bins=2)
    assert (data.num_classes, data.class_names, data.task) == (2, [], "discrete_time")
    labels = data.contents("train")[0]
    assert labels.dtype == np.float64
    assert labels.tolist() == np.stack([*TIMES.values()], 1).tolist()
    assert data.source("train").bag(2).labels.tolist() == [[2.0, 1.0]]
    columns = {
        "os": TIMES["time"],
        "dead": TIMES["event"],
        "alive": [1 - e for e in TIMES["event"]],
    }
    table = write_slides(8, label=None, name="other", **columns)
    for flag in ({"event_column": "dead"}, {"censorship_column": "alive"}):
        other = slides(table, task="cox", time_column="os", **flag)
        assert np.array_equal(other.contents("train")[0], labels) and other.num_classes == 1


def test_recorded_splits_can_be_given_as_a_table(write_slides, tmp_path):
    table = write_slides(8, label=None, **TIMES)
    data = FeatureBagsDataModule(table, task="cox", val_fraction=0.3)
    data.write_splits(tmp_path / "splits.csv")
    again = FeatureBagsDataModule(tmp_path / "splits.csv", table.parent / "features", task="cox")
    for split in ("train", "val", "test"):
        assert np.array_equal(data.contents(split)[0], again.contents(split)[0])


def test_values_with_unknown_ones(write_slides):
    table = write_slides(4, label=None, tmb=[1, "", 3.5, 2], her2=[0, 1, 2, 9])
    data = slides(table, task="regression", target_columns=["her2", "tmb"])
    assert data.num_classes == 2 and data.target_names == ("her2", "tmb")
    assert np.array_equal(
        data.contents("train")[0], [[0, 1], [1, np.nan], [2, 3.5], [9, 2]], equal_nan=True
    )
    assert "tmb 1 to 3.5, unknown 1" in data.describe("train")


def test_grades_in_the_order_of_their_names(write_slides):
    table = write_slides(6, label=["low", "high", "middle"] * 2)
    names = ["low", "middle", "high"]
    data = slides(table, task="ordinal", class_names=names)
    assert data.contents("train")[0].tolist() == [0, 2, 1] * 2
    assert (data.num_classes, data.class_names) == (3, names)
    with pytest.raises(DataProblems, match="class_names"):
        slides(table, task="ordinal")


def test_a_patient_has_one_time_however_it_is_written(write_slides):
    same = {"time": ["3", "3.0", 5, 5], "event": [1, 1, 0, 0], "patient_id": list("ppqq")}
    options = {"task": "cox", "bag": "patient"}
    data = slides(write_slides(4, label=None, **same), **options)
    assert data.contents("train")[0].tolist() == [[3, 1], [5, 0]]
    two = write_slides(4, label=None, name="two", **same | {"time": [3, 4, 5, 5]})
    with pytest.raises(DataProblems, match=r"patient p: .*time 3, event 1 \(s0\), time 4"):
        slides(two, **options)


def test_other_slides_are_read_alike_and_need_no_times(write_slides, recwarn):
    columns = {"os": TIMES["time"], "dead": TIMES["event"]}
    data = slides(write_slides(8, label=None, **columns), task="discrete_time", time_bins=3,
                  time_column="os", event_column="dead")  # fmt: skip
    known = data.evaluation_arguments()
    accepted = set(inspect.signature(FeatureBagsDataModule).parameters)
    known = {n: v for n, v in known.items() if n in accepted} | {"task": "discrete_time"}
    bare = FeatureBagsDataModule(write_slides(3, label=None, name="bare"), **known)
    assert np.isnan(bare.bags.labels).all() and bare.num_classes == 3
    assert len(bare.numbers("predict")) == 3 and not bare.numbers("train")
    assert any("no column os, dead" in str(w.message) for w in recwarn)
    censored = write_slides(4, label=None, name="censored", os=[1, 2, 3, 4], dead=[0] * 4)
    assert FeatureBagsDataModule(censored, **known).bags.labels[:, 1].sum() == 0  # only scored
    with pytest.raises(DataProblems, match="column dead is missing"):
        FeatureBagsDataModule(write_slides(2, label=None, name="half", os=[1, 2]), **known)


def test_hashes_from_before_there_were_targets():
    """Literal values of the version before: a new argument changes no hash of existing data."""
    slides, bags = {"table": "a.csv"}, {"file": "a.npz"}
    assert fingerprint(FeatureBagsDataModule, slides) == "a4a373b17d75165e"
    assert fingerprint(TabularBagsDataModule, bags) == "1a72aedbc02967de"
    assert fingerprint(DigitBagsDataModule, {}) == "789bb7ed6958808a"
    assert fingerprint(FeatureBagsDataModule, slides | {"time_bins": 5}) != "a4a373b17d75165e"


def test_arrays_of_an_npz_file(npz):
    data = TabularBagsDataModule(npz, task="cox", test_fraction=0, val_fraction=0)
    assert data.contents("train")[0].tolist() == np.stack([*TIMES.values()], 1).tolist()
    assert data.source("train").labels.shape == (8, 2)
    values = TabularBagsDataModule(npz, task="regression", test_fraction=0, val_fraction=0)
    assert values.target_names == ("a", "b") and values.num_classes == 2
    one = TabularBagsDataModule(
        npz, task="regression", target_columns=["b"], test_fraction=0, val_fraction=0
    )
    assert one.num_classes == 1
    assert np.array_equal(
        one.contents("train")[0][:, 0], values.contents("train")[0][:, 1], equal_nan=True
    )
    assert one.evaluation_arguments()["target_columns"] == ["b"]


def test_a_bag_with_a_wrong_time_is_skipped(npz):
    arrays = dict(np.load(npz))
    np.savez(npz, **arrays | {"time": np.array([3, -5, 2, 7, 9, 1, 4, 8])})
    with pytest.raises(DataProblems, match="bag 1: time is -5"):
        TabularBagsDataModule(npz, task="cox")
    data = TabularBagsDataModule(npz, task="cox", bad_data="skip", test_fraction=0, val_fraction=0)
    assert data.contents("train")[0][:, 0].tolist() == [3, 2, 7, 9, 1, 4, 8]


@pytest.mark.parametrize(
    ("task", "outputs", "names"),
    [("cox", 1, ()), ("discrete_time", 4, ()), ("regression", 2, ("a", "b"))],
)
def test_cross_validation_reads_targets(npz, write_slides, task, outputs, names):
    overlay = ROOT / f"configs/_base/task/{task}.yaml"
    recipe = Recipe((ROOT / "configs/mil/abmil.yaml", overlay))
    _, bags = inputs_once(recipe, BagInputs(npz), LAST)
    assert (bags.task, bags.num_classes, bags.target_names) == (task, outputs, names)
    assert bags.labels.shape == (8, 2) and bags.labels.dtype == np.float64
    columns = TIMES if task != "regression" else {"a": range(8), "b": range(8)}
    words = ("--data.target_columns=[a, b]",) if names else ()
    recipe = Recipe((ROOT / "configs/mil/abmil_features.yaml", overlay), words)
    table = write_slides(8, label=None, **columns)
    _, bags = inputs_once(recipe, BagInputs(table), LAST)
    assert (bags.task, bags.num_classes, bags.target_names) == (task, outputs, names)
