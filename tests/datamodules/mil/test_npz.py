import csv

import numpy as np
import pytest
import torch

from datamodules.mil.digit_bags import DigitBagsDataModule as Digits
from datamodules.mil.npz import TabularBagsDataModule


@pytest.fixture
def write(tmp_path):
    """Return a function that writes 40 bags of 3 instances with 4 features."""

    def written(name="bags", seed=0, classes=2, width=4, **more):
        random = np.random.default_rng(seed)
        arrays = {
            "X": random.normal(5, 3, (120, width)).astype(np.float32),
            "bag_index": np.repeat(np.arange(40), 3),
            "y": np.arange(40) % classes,
        } | more
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        return path

    return written


def splits(data):
    return {split: set(data.numbers(split)) for split in ("train", "val", "test")}


def test_splits_are_stratified_and_disjoint(write):
    data = TabularBagsDataModule(write(), test_fraction=0.25, val_fraction=0.2)
    parts = splits(data)
    assert [len(parts[s]) for s in ("train", "val", "test")] == [24, 6, 10]
    assert set.union(*parts.values()) == set(range(40))
    for numbers in parts.values():
        assert abs(sum(n % 2 for n in numbers) * 2 - len(numbers)) <= 1
    assert list(data.numbers("predict")) == list(range(40))


def test_the_published_fold_is_the_test_split(write):
    published = np.stack([np.arange(40) % 5, np.arange(40) // 8])
    file = write(cv_fold=published)
    with pytest.warns(UserWarning, match="5 published folds; num_folds=10 is ignored"):
        data = TabularBagsDataModule(file, fold=2, repeat=1, val_fraction=0.0)
    assert splits(data) == {
        "train": set(range(16)) | set(range(24, 40)), "val": set(), "test": set(range(16, 24)),
    }  # fmt: skip
    assert data.val_dataloader() == []


def test_made_folds_cover_all_bags_once(write):
    file = write()
    tests = [TabularBagsDataModule(file, fold=k, num_folds=4).numbers("test") for k in range(4)]
    assert sorted(n for test in tests for n in test) == list(range(40))
    other = TabularBagsDataModule(file, fold=0, num_folds=4, split_seed=1).numbers("test")
    assert other != tests[0]


def test_the_training_seed_does_not_move_the_splits(write):
    file = write()
    assert splits(TabularBagsDataModule(file, seed=0)) == splits(
        TabularBagsDataModule(file, seed=9)
    )


def test_statistics_come_from_training_bags_only(write):
    features = np.load(write())["X"]
    data = TabularBagsDataModule(write(), fold=0)
    train = np.isin(np.repeat(np.arange(40), 3), data.numbers("train"))
    rows = features[train].astype(np.float64)
    arguments = data.evaluation_arguments()
    np.testing.assert_allclose(arguments["mean"], rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(arguments["std"], rows.std(0), rtol=1e-12)
    changed = features.copy()
    changed[~train] += 1000  # validation and test bags
    again = TabularBagsDataModule(write(X=changed), fold=0)
    assert again.evaluation_arguments() == arguments
    changed[np.flatnonzero(train)[0]] += 1
    assert TabularBagsDataModule(write(X=changed), fold=0).evaluation_arguments() != arguments


def test_batches_hold_standardised_bags_in_order(write):
    data = TabularBagsDataModule(write(), fold=0, eval_batch_size=3)
    mean, std = (np.array(data.evaluation_arguments()[k]) for k in ("mean", "std"))
    raw = np.load(write())["X"].reshape(40, 3, 4)
    batch = next(iter(data.test_dataloader()))
    numbers = data.numbers("test")[:3]
    expected = ((raw[numbers] - mean) / std).reshape(9, 4)
    np.testing.assert_allclose(batch.features, expected, atol=1e-6)
    assert batch.index.tolist() == numbers and batch.labels.tolist() == [n % 2 for n in numbers]
    assert batch.bag_ids == tuple(f"bags_{n}" for n in numbers)
    raw_data = TabularBagsDataModule(write(), standardise=False)
    assert torch.equal(raw_data.source("test").features, torch.from_numpy(raw.reshape(120, 4)))
    assert raw_data.evaluation_arguments() == {"eval_batch_size": 1, "standardise": False}


def test_a_sampler_draws_by_the_labels_of_the_training_bags(write):
    labels = np.append(np.zeros(32, int), np.ones(8, int))
    file = write(y=labels)
    shared = {"batch_size": 4, "split_seed": 3}
    pairs = TabularBagsDataModule(file, sampler="balanced_batches", **shared)
    for batch in pairs.train_dataloader():
        assert sorted(batch.labels.tolist()) == [0, 0, 1, 1]
        assert set(batch.index.tolist()) <= set(pairs.numbers("train"))
    weights = [0.0, 1.0]
    rare = TabularBagsDataModule(file, sampler="weighted", class_weights=weights, **shared)
    assert all(batch.labels.all() for batch in rare.train_dataloader())
    plain = TabularBagsDataModule(file, **shared)
    assert len(list(plain.train_dataloader())) == len(list(rare.train_dataloader()))


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
def test_class_weights_are_one_a_class(write, weights):
    options = {"sampler": "weighted", "class_weights": weights}
    for make in (lambda: TabularBagsDataModule(write(), **options), lambda: Digits(**options)):
        with pytest.raises(ValueError, match=f"{len(weights)} entries for 2 classes"):
            make()


def test_clipping_travels_with_the_statistics(write):
    plain, clipped = TabularBagsDataModule(write()), TabularBagsDataModule(write(), clip=0.5)
    expected = plain.source("test").features.clamp(-0.5, 0.5)
    assert torch.equal(clipped.source("test").features, expected)
    again = TabularBagsDataModule(write(), **clipped.evaluation_arguments())
    assert torch.equal(again.source("test").features, expected)


def test_another_file_is_prepared_like_the_first(write):
    first = TabularBagsDataModule(write(), fold=1)
    file = write("other", seed=1)
    other = TabularBagsDataModule(file, **first.evaluation_arguments())
    mean, std, _ = first.standardisation
    raw = np.load(file)["X"]
    np.testing.assert_allclose(other.source("predict").features, (raw - mean) / std, atol=1e-6)
    narrow = TabularBagsDataModule(write("narrow", width=3), **first.evaluation_arguments())
    with pytest.raises(ValueError, match=r"narrow\.npz: bags with 3 features.* fitted on 4"):
        narrow.source("predict")


def test_patients_are_in_one_split_only(write):
    patients = np.array([f"p{n // 4}" for n in range(40)])
    data = TabularBagsDataModule(write(groups=patients), fold=0, num_folds=5)
    held = [{patients[n] for n in numbers} for numbers in splits(data).values()]
    assert sum(len(h) for h in held) == len(set.union(*held)) == 10
    assert next(iter(data.test_dataloader())).groups == (patients[data.numbers("test")[0]],)


def test_facts(write):
    binary = TabularBagsDataModule(write())
    assert (binary.num_classes, binary.in_features, binary.task) == (2, 4, "binary")
    assert binary.class_names == ["negative", "positive"]
    three = TabularBagsDataModule(write(classes=3))
    assert (three.num_classes, three.task, three.class_names) == (3, "multiclass", ["0", "1", "2"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fold": 10}, r"bags\.npz: folds are 0 to 9, got 10"),
        ({"fold": 0, "num_folds": 50}, "2 to 40 folds"),
        ({"mean": [0.0] * 4}, "together"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip": 3.0, "standardise": False}, "clip must be positive and needs standardise"),
        ({"mean": [0.0] * 4, "std": [1.0] * 4, "standardise": False}, "standardise"),
        ({"test_fraction": 1.0}, "share"),
    ],
)
def test_wrong_arguments_are_refused(write, arguments, message):
    with pytest.raises(ValueError, match=message):
        TabularBagsDataModule(write(), **arguments)


def test_classes_known_beforehand(write):
    data = TabularBagsDataModule(write(classes=2), class_names=["a", "b", "c"])
    assert (data.num_classes, data.task, data.class_names) == (3, "multiclass", ["a", "b", "c"])
    two = TabularBagsDataModule(write(), task="multiclass")
    assert (two.num_classes, two.task) == (2, "multiclass")
    for task, names in (("binary", ["a", "b", "c"]), ("multilabel", None)):
        with pytest.raises(ValueError, match=f"does not fit the task {task}"):
            TabularBagsDataModule(write(), class_names=names, task=task)


def test_bags_with_several_classes(write, tmp_path):
    several = np.stack([np.arange(40) % 2, np.arange(40) % 4 == 1], axis=1)
    data = TabularBagsDataModule(write(y=several), test_fraction=0.25, eval_batch_size=3)
    assert (data.num_classes, data.task, data.class_names) == (2, "multilabel", ["0", "1"])
    labels, sizes, _ = data.contents("test")
    assert labels.sum(axis=0).tolist() == [5, 3] and sizes.tolist() == [3] * 10
    batch = next(iter(data.test_dataloader()))
    assert batch.labels.tolist() == several[data.numbers("test")[:3]].tolist()
    assert data.summary()["test"]["classes"] == 2
    assert data.describe("test") == "10 bags, 30 instances; 0 5, 1 3, none of them 5"
    data.write_splits(tmp_path / "splits.csv")
    with (tmp_path / "splits.csv").open() as stream:
        written = {row["bag_id"]: row["label"] for row in csv.DictReader(stream)}
    assert [written[f"bags_{n}"] for n in range(4)] == [";", "0;1", ";", "0"]
    named = TabularBagsDataModule(write(y=several), class_names=["er", "pr"])
    assert named.class_names == ["er", "pr"]


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "class_balanced"},
        {"sampler": "balanced_batches"},
        {"sampler": "weighted", "class_weights": [1.0, 2.0]},
    ],
)
def test_bags_with_several_classes_are_not_drawn_by_class(write, options):
    several = np.stack([np.arange(40) % 2, np.arange(40) % 4 == 1], axis=1)
    with pytest.raises(ValueError, match="but these bags have several classes each; use shuffle"):
        TabularBagsDataModule(write(y=several), **options)


def test_instance_labels_reach_the_batches(write):
    labels = np.arange(120) % 3 - 1
    data = TabularBagsDataModule(write(instance_labels=labels), eval_batch_size=2)
    batch = next(iter(data.test_dataloader()))
    assert batch.instance_labels.tolist() == [-1, 0, 1] * 2


def test_a_file_without_labels_can_be_predicted(write):
    content = dict(np.load(write()))
    del content["y"]
    file = write().with_name("bare.npz")
    np.savez(file, **content)
    known = {"class_names": ["n", "p"], "standardise": False}
    data = TabularBagsDataModule(file, eval_batch_size=7, **known)
    assert splits(data) == {"train": set(), "val": set(), "test": set()}
    batches = list(data.predict_dataloader())
    assert sum(len(b) for b in batches) == 40 and {int(b.labels.max()) for b in batches} == {-1}
    with pytest.raises(ValueError, match="array y is missing"):
        TabularBagsDataModule(file)
    with pytest.raises(ValueError, match="no training bags to standardise features with"):
        TabularBagsDataModule(file, class_names=["n", "p"])


def test_faulty_bags_are_left_out_and_the_others_keep_their_names(write):
    features = np.load(write())["X"]
    features[9, 1] = np.nan  # the first instance of bag 3
    with pytest.raises(ValueError, match="bag 3, row 9: feature 1 is NaN"):
        TabularBagsDataModule(write(X=features))
    data = TabularBagsDataModule(write(X=features), bad_data="skip", standardise=False)
    assert [p.item for p in data.check()] == [3]
    bags = [bag for batch in data.predict_dataloader() for bag in batch.bags()]
    assert [bag.bag_ids[0] for bag in bags] == [f"bags_{n}" for n in range(40) if n != 3]
    np.testing.assert_array_equal(bags[3].features, features[12:15])


def test_summary_and_recorded_splits(write, tmp_path):
    patients = np.array([f"p{n // 4}" for n in range(40)])
    data = TabularBagsDataModule(write(groups=patients), fold=0, num_folds=5, val_fraction=0.0)
    counts = {"features": 4, "classes": 2}
    assert data.summary() == {
        "train": {"bags": 32, "instances": 96, "patients": 8} | counts,
        "test": {"bags": 8, "instances": 24, "patients": 2} | counts,
    }
    data.write_splits(tmp_path / "splits.csv")
    lines = (tmp_path / "splits.csv").read_text().splitlines()
    assert lines[0] == "bag_id,patient_id,label,split"
    expected = [
        f"bags_{n},{patients[n]},{n % 2},{part}"
        for part in ("train", "test")
        for n in data.numbers(part)
    ]
    assert lines[1:] == expected


def test_no_test_bags_is_an_error_when_testing(write):
    data = TabularBagsDataModule(write(), test_fraction=0.0)
    assert len(data.numbers("train")) == 32
    with pytest.raises(ValueError, match="no test bags"):
        data.test_dataloader()


def test_classic_set_has_its_published_folds(shared_data):
    file = shared_data("mil_classic") / "musk1.npz"
    content = np.load(file)
    data = TabularBagsDataModule(file, fold=3, repeat=2)
    assert data.numbers("test") == np.flatnonzero(content["cv_fold"][2] == 3).tolist()
    assert (data.in_features, len(data.source("train"))) == (166, 92)
    data.source("train").check()
