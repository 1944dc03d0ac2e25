import warnings

import numpy as np
import pytest
import torch

from datamodules.mil import feature_set
from datamodules.mil.feature_bags import FeatureBags
from datamodules.mil.feature_set import FeatureFolder, FeatureSet
from datamodules.sampling.keys import SampleKey
from structures import DataProblems

BY_PATIENT = FeatureFolder(by_patient=True)


def stored(table, number):
    """Features of slide i as they lie on disk, read by the libraries themselves."""
    import h5py
    from safetensors.numpy import load_file

    path = next((table.parent / "features").glob(f"s{number}.*"))
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)["features"].numpy()
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return file["features"][:]
    return load_file(path)["features"]


def test_a_bag_is_a_slide(write_slides):
    table = write_slides(8)
    bags = FeatureSet(table)
    assert len(bags) == 8 and bags.sizes.tolist() == [3, 4, 5, 6] * 2
    assert (bags.num_classes, bags.task, bags.in_features) == (2, "binary", 4)
    for number in range(8):
        bag = bags.bag(number)
        bag.check()
        assert bag.features.dtype == torch.float16  # until the batch is on the device
        assert bag.in_single_precision().features.dtype == torch.float32
        np.testing.assert_array_equal(bag.features, stored(table, number).astype(np.float32))
        assert bag.labels.tolist() == [number % 2] and bag.index.tolist() == [number]
        assert bag.bag_ids == (f"s{number}",) and bag.groups == (f"p{number // 4}_{number % 2}",)
        assert (bag.coords is None) == (number % 4 == 0)  # npy has no coordinates


@pytest.mark.parametrize(
    ("stored_as", "read_as"), [("f2", "float16"), ("f4", "float32"), ("f8", "float32")]
)
def test_no_more_than_single_precision_is_read(write_slides, stored_as, read_as):
    table = write_slides(8)
    values = np.full((3, 4), 1 / 3, stored_as)
    np.save(table.parent / "features" / "s0.npy", values)
    bag = FeatureSet(table).bag(0)
    assert bag.features.dtype == getattr(torch, read_as)
    np.testing.assert_array_equal(bag.features, values.astype(read_as))


def test_a_bag_may_be_kept_and_changed(write_slides):
    """A bag that is not asked for as a view has neither the pages of the file nor of the cache."""
    table = write_slides(4)
    bags = FeatureSet(table)
    bags.keep_in_memory([1, 2, 3], 0.1)
    for number in (0, 1, 2, 3, 1):
        before = bags.bag(number).features.clone()
        bags.bag(number).features.zero_()
        assert torch.equal(bags.bag(number).features, before)


def test_a_bag_is_a_patient(write_slides):
    table = write_slides(8)
    bags = FeatureSet(table, BY_PATIENT)
    assert bags.bag_ids == ("p0_0", "p0_1", "p1_0", "p1_1") == bags.groups
    assert bags.labels.tolist() == [0, 1, 0, 1] and bags.sizes.tolist() == [8, 10, 8, 10]
    bag = bags.bag(3)  # slides 5 (h5) and 7 (safetensors)
    expected = np.concatenate([stored(table, 5), stored(table, 7)])
    np.testing.assert_array_equal(bag.features, expected.astype(np.float32))
    assert bag.coords.shape == (10, 2)
    assert bags.bag(0).coords is None  # one of its slides is npy
    rows = torch.tensor([0, 3, 4, 9])  # two of each slide
    np.testing.assert_array_equal(bags.bag(3, rows).features, expected[rows].astype(np.float32))
    assert torch.equal(bags.bag(3, rows).coords, bag.coords[rows])


def test_without_patients_a_slide_is_its_own(write_slides):
    bags = FeatureSet(write_slides(4, patient_id=None), BY_PATIENT)
    assert bags.groups == () and bags.bag_ids == ("s0", "s1", "s2", "s3")


def test_training_takes_random_parts_of_large_bags(write_slides):
    table = write_slides(4, size=50)
    bags = FeatureSet(table)
    cut = FeatureBags(bags, max_instances=20, seed=3)
    whole = bags.bag(1).features
    place = {tuple(row.tolist()): k for k, row in enumerate(whole)}
    taken = {}
    for epoch in range(40):
        part = cut[SampleKey(1, epoch)].features
        rows = [place[tuple(row.tolist())] for row in part]
        assert len(rows) == 20 and rows == sorted(set(rows))
        assert cut[SampleKey(1, epoch)].numbers().tolist() == rows
        taken[epoch] = rows
    again = FeatureBags(FeatureSet(table), max_instances=20, seed=3)[SampleKey(1, 7)].features
    assert torch.equal(again, whole[taken[7]])
    assert taken[0] != taken[1]
    counts = np.bincount(np.concatenate(list(taken.values())), minlength=50)
    assert counts.min() >= 6 and counts.max() <= 27  # 16 +- 3.1 expected
    other = FeatureBags(bags, max_instances=20, seed=4)[SampleKey(1, 0)].features
    assert not torch.equal(other, whole[taken[0]])
    for most in (50, 60):
        assert torch.equal(FeatureBags(bags, most)[SampleKey(1)].features, whole)
        assert FeatureBags(bags, most)[SampleKey(1)].numbers().tolist() == list(range(50))
    assert torch.equal(FeatureBags(bags)[SampleKey(1)].features, whole)


def test_features_are_read_late(write_slides):
    table = write_slides(4)
    bags = FeatureSet(table)
    np.save(table.parent / "features" / "s0.npy", np.full((3, 4), 7, np.float16))
    assert (bags.bag(0).features == 7).all()
    np.save(table.parent / "features" / "s0.npy", np.ones((4, 4), np.float16))
    with pytest.raises(ValueError, match=r"s0\.npy: slide s0 has changed since it was opened"):
        bags.bag(0)
    (table.parent / "features" / "s0.npy").unlink()
    with pytest.raises(ValueError, match=r"s0\.npy, slide s0: no such file"):
        bags.bag(0)


def spoil(table):
    """Break 5 of the slides and return what has to be said about each."""
    folder = table.parent / "features"
    values = np.load(folder / "s0.npy")
    values[2, 1] = np.nan
    np.save(folder / "s0.npy", values)
    (folder / "s1.h5").write_bytes(b"\x89HDF no")
    np.save(folder / "s4.npy", np.ones((3, 5)))
    (folder / "s6.pt").unlink()
    np.save(folder / "s8.npy", np.ones((0, 4)))
    return {
        "s1": "cannot be read as .h5",
        "s4": "5 features, but 8 other slides have 4; extract all slides with one encoder",
        "s6": "no feature file in",
        "s8": "no instances",
    }


@pytest.mark.parametrize("large", [False, True])
def test_all_faults_come_at_once(write_slides, monkeypatch, large):
    table = write_slides(12)
    expected = spoil(table)
    if large:
        monkeypatch.setattr(feature_set, "_VALUES_LIMIT", 0)
    else:
        expected["s0"] = "row 2: feature 1 is NaN"
    with pytest.raises(DataProblems) as error:
        FeatureSet(table)
    found = {p.item: str(p) for p in error.value.problems}
    assert set(found) == set(expected)  # NaN of a large set needs reading
    for slide, message in expected.items():
        assert message in found[slide] and f"slide {slide}" in found[slide]


def test_skipping_leaves_them_out_and_reads_every_feature(write_slides):
    table = write_slides(12)
    expected = spoil(table)
    bags = FeatureSet(table, bad_data="skip")
    assert bags.bag_ids == ("s2", "s3", "s5", "s7", "s9", "s10", "s11")
    assert bags.labels.tolist() == [0, 1, 1, 1, 1, 0, 1]
    for number, name in enumerate(bags.bag_ids):
        values = stored(table, int(name[1:])).astype(np.float32)
        np.testing.assert_array_equal(bags.bag(number).features, values)
    found = {p.item: p for p in bags.problems}
    assert set(found) == {*expected, "s0"}
    assert (found["s0"].annotation, found["s0"].part) == (2, "row")
    assert len(bags.check(thorough=True)) == 5
    patients = FeatureSet(table, BY_PATIENT, bad_data="skip")
    assert patients.bag_ids == ("p0_0", "p0_1", "p1_1", "p2_1", "p2_0")  # what is left of each
    assert patients.sizes.tolist() == [5, 6, 10, 10, 5]


def test_a_thorough_check_finds_values_that_are_not_finite(write_slides):
    table = write_slides(4)
    bags = FeatureSet(table)
    assert bags.check(thorough=True) == []
    values = np.load(table.parent / "features" / "s0.npy")
    values[1, 3] = np.inf
    np.save(table.parent / "features" / "s0.npy", values)
    assert bags.check(thorough=False) == []
    (fault,) = bags.check(thorough=True)
    assert (fault.item, fault.annotation) == ("s0", 1) and "feature 3 is NaN" in fault.reason
    with pytest.raises(ValueError, match=r"s0\.npy, slide s0, row 1: feature 3 is NaN"):
        bags.bag(0)
    with pytest.raises(ValueError, match="row 1: feature 3"):
        bags.bag(0, torch.tensor([1, 2]))  # the row of the file, not of the part


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize("column", ["split", "fold"])
def test_a_patient_in_two_parts_is_fatal(write_slides, column, policy):
    values = {"split": ["train", "test"], "fold": [0, 1]}[column] * 4
    patients = ["p", "q", "p", "q", "r", "q", "r", "q"]
    FeatureSet(write_slides(8, patient_id=patients, **{column: values}), bad_data=policy)
    patients[4], patients[7] = "q", "p"
    table = write_slides(8, patient_id=patients, **{column: values})
    (table.parent / "features" / "s0.npy").unlink()
    np.save(table.parent / "features" / "s4.npy", np.full((2, 4), np.nan, np.float16))
    with pytest.raises(DataProblems) as error:
        FeatureSet(table, bad_data=policy)
    found = [(p.item, p.kind) for p in error.value.problems]
    slides = [("s0", "slide"), ("s4", "slide")]
    assert found == [("p", "patient"), ("q", "patient"), *slides]
    one, other = values[:2]
    assert f"bags in {column}s {one}, {other}" in str(error.value)
    assert "put all bags of a patient into one" in str(error.value)


def test_a_patient_with_two_labels(write_slides):
    table = write_slides(6, patient_id=["p", "p", "q", "r", "q", "r"])
    assert len(FeatureSet(table)) == 6  # ordinary for bags of slides
    with pytest.raises(DataProblems, match=r"patient p: slides with labels 0 .s0., 1 .s1.; give"):
        FeatureSet(table, BY_PATIENT)
    assert FeatureSet(table, BY_PATIENT, bad_data="skip").bag_ids == ("q", "r")


def test_the_largest_label_of_a_patient(write_slides):
    table = write_slides(6, patient_id=["p", "p", "q", "r", "q", "r"])
    largest = FeatureFolder(by_patient=True, patient_label="max")
    bags = FeatureSet(table, largest)
    assert bags.bag_ids == ("p", "q", "r") and bags.labels.tolist() == [1, 0, 1]
    assert [bags.bag(k).labels.tolist() for k in range(3)] == [[1], [0], [1]]
    assert [row[2] for row in bags.split_rows(["train"] * 3)] == list("010101")  # as in the table
    two = bags.folds(2, 0, 0)
    assert two[0] != two[2]  # stratified by the label of patients
    (table.parent / "features/s1.h5").unlink()  # the positive slide of p
    assert FeatureSet(table, largest, bad_data="skip").labels.tolist() == [1, 0, 1]
    assert FeatureSet(table, BY_PATIENT, bad_data="skip").labels.tolist() == [0, 0, 1]


def test_the_union_of_the_labels_of_a_patient(write_slides):
    largest = FeatureFolder(by_patient=True, patient_label="max")
    table = write_slides(4, label=["a;b", "c", ";", "a"], patient_id=list("ppqq"))
    assert FeatureSet(table, largest).labels.tolist() == [[1, 1, 1], [1, 0, 0]]
    columns = write_slides(4, label=None, er=[1, 0, 0, 1], pr=[1, 1, 0, 0])
    found = FeatureSet(columns, largest, label_columns=["er", "pr"])
    assert found.labels.tolist() == [[1, 1], [1, 1]]
    unlabelled = write_slides(4, label=None)
    assert FeatureSet(unlabelled, largest, ["n", "p"]).labels.tolist() == [-1, -1]


def test_the_order_of_classes_in_words(write_slides):
    largest = FeatureFolder(by_patient=True, patient_label="max")
    words = ["normal", "tumor", "adenoma", "normal"]
    table = write_slides(4, label=words, patient_id=list("ppqr"))
    with pytest.warns(
        UserWarning, match=r"adenoma < normal < tumor; 1 of 3 patients, for example p,"
    ):
        assert FeatureSet(table, largest).labels.tolist() == [2, 0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = FeatureSet(table, largest, ["tumor", "adenoma", "normal"])
        assert found.labels.tolist() == [2, 1, 2]  # the given order counts
        FeatureSet(write_slides(4, patient_id=list("ppqr")), largest)  # numbers have theirs
        alike = write_slides(4, label=["no", "no", "yes", "yes"], patient_id=list("ppqr"))
        FeatureSet(alike, largest)


@pytest.mark.parametrize("odd", [0, 8])
def test_the_usual_width_is_right(write_slides, odd):
    table = write_slides(9)
    np.save(table.parent / "features" / f"s{odd}.npy", np.ones((2, 9), np.float16))
    with pytest.raises(DataProblems) as error:
        FeatureSet(table)
    assert [p.item for p in error.value.problems] == [f"s{odd}"]


def test_two_slides_of_one_file(write_slides):
    table = write_slides(2, slide_id=["s0.svs", "s0.tif"])
    with pytest.raises(DataProblems, match=r"slide s0\.tif: slide s0\.svs has the same file"):
        FeatureSet(table)


def test_nothing_usable(write_slides):
    table = write_slides(3)
    for file in (table.parent / "features").iterdir():
        file.unlink()
    with pytest.raises(DataProblems, match="no usable slide"):
        FeatureSet(table, bad_data="skip")


def test_classes_and_task(write_slides):
    three = FeatureSet(write_slides(9, classes=3, label=list("abc") * 3))
    assert (three.num_classes, three.task, three.class_names) == (3, "multiclass", list("abc"))
    known = FeatureSet(write_slides(4, label=list("bbbb")), class_names=list("abc"))
    assert known.labels.tolist() == [1] * 4 and known.task == "multiclass"
    assert FeatureSet(write_slides(4), task="multiclass").task == "multiclass"
    unlabelled = write_slides(4, label=None)
    assert FeatureSet(unlabelled, class_names=["n", "p"]).labels.tolist() == [-1] * 4
    with pytest.raises(ValueError, match="column `label` is missing, so the classes are unknown"):
        FeatureSet(unlabelled)
    with pytest.raises(ValueError, match="does not fit the task binary"):
        FeatureSet(write_slides(4), class_names=list("abc"), task="binary")


def test_slides_with_several_classes(write_slides):
    bags = FeatureSet(write_slides(4, label=["a;b", "b", ";", "a"]))
    assert (bags.num_classes, bags.task, bags.class_names) == (2, "multilabel", ["a", "b"])
    assert [bags.bag(k).labels.tolist() for k in range(4)] == [
        [[1, 1]],
        [[0, 1]],
        [[0, 0]],
        [[1, 0]],
    ]
    columns = write_slides(4, label=None, er=[1, 0, 0, 1], pr=[1, 1, 0, 0])
    split = FeatureSet(columns, label_columns=["er", "pr"])
    assert split.labels.tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]] and split.task == "multilabel"
    rows = list(split.split_rows(["train", "val", "test", "train"]))
    assert rows[1] == ("s1", "p0_1", "0", "1", "val")
    with pytest.raises(DataProblems, match=r"patient p0_0 .slides with labels er=0 pr=0 .s2."):
        FeatureSet(columns, BY_PATIENT, label_columns=["er", "pr"])


def annotate(table, number, labels):
    """Write instance labels into the h5 file of a slide."""
    import h5py

    with h5py.File(table.parent / "features" / f"s{number}.h5", "a") as file:
        file["instance_labels"] = labels


def test_instance_labels_are_unknown_where_a_slide_has_none(write_slides):
    table = write_slides(8)
    assert FeatureSet(table).bag(1).instance_labels is None
    annotate(table, 1, [0, 1, 1, -1])
    bags = FeatureSet(table)
    assert bags.bag(1).instance_labels.tolist() == [0, 1, 1, -1]
    assert bags.bag(1, torch.tensor([1, 3])).instance_labels.tolist() == [1, -1]
    assert bags.bag(0).instance_labels.tolist() == [-1] * 3
    patient = FeatureSet(table, BY_PATIENT).bag(1)  # slides 1 and 3
    assert patient.instance_labels.tolist() == [0, 1, 1, -1] + [-1] * 6
    table = write_slides(4, name="wrong")
    annotate(table, 1, [0, 1, 1])
    with pytest.raises(DataProblems, match=r"slide s1: instance labels have shape \(3,\) for 4"):
        FeatureSet(table)
    table = write_slides(4, name="worse")
    annotate(table, 1, [0, 1, 2, 0])
    with pytest.raises(DataProblems, match="slide s1: instance_labels has 2 in row 2"):
        FeatureSet(table)


def test_weights_of_a_patient_are_the_mean_of_its_slides(write_slides):
    table = write_slides(4, patient_id=list("pqpq"), weight=[1, 2, 4, 0])
    assert FeatureSet(table).weights.tolist() == [1, 2, 4, 0]
    assert FeatureSet(table, BY_PATIENT).weights.tolist() == [2.5, 1]
