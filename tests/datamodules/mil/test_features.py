import csv
import logging

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.mil.features import FeatureBagsDataModule
from datamodules.mil.folds import hold_out, stratified_folds
from datamodules.mil.npz import TabularBagsDataModule


def splits(data):
    return {split: list(data.numbers(split)) for split in ("train", "val", "test", "predict")}


def patients(count, classes=2):
    return [f"p{i // (2 * classes)}_{i % classes}" for i in range(count)]


def test_splits_are_those_of_an_npz_with_the_same_bags(write_slides, tmp_path):
    labels = np.arange(40) % 2
    np.savez(
        tmp_path / "a.npz", X=np.ones((40, 4)), bag_index=np.arange(40), y=labels,
        groups=np.array(patients(40)),
    )  # fmt: skip
    table = write_slides(40)
    for options in (
        {},
        {"fold": 3, "num_folds": 5, "val_fraction": 0.3},
        {"fold": 0, "repeat": 2, "split_seed": 7},
        {"test_fraction": 0.4, "val_fraction": 0.0},
    ):
        one = splits(FeatureBagsDataModule(table, **options))
        assert one == splits(TabularBagsDataModule(tmp_path / "a.npz", **options))
        names = [{patients(40)[b] for b in one[s]} for s in ("train", "val", "test")]
        assert sum(map(len, names)) == 20 and len(set.union(*names)) == 20
    test = hold_out(labels, 0.2, (0, 0, 0), patients(40))
    assert splits(FeatureBagsDataModule(table))["test"] == np.flatnonzero(test).tolist()


def test_folds_of_patients_cover_every_bag_once(write_slides):
    table = write_slides(24)
    parts = [
        FeatureBagsDataModule(table, fold=k, num_folds=3, bag="patient").numbers("test")
        for k in range(3)
    ]
    assert sorted(b for part in parts for b in part) == list(range(12))
    expected = stratified_folds(
        np.arange(12) % 2, 3, 0, 0, [f"p{i // 2}_{i % 2}" for i in range(12)]
    )
    assert parts[1] == np.flatnonzero(expected == 1).tolist()


def test_a_column_of_folds_is_followed(write_slides):
    table = write_slides(12, patient_id=None, fold=[0, 1, 2] * 4)
    data = FeatureBagsDataModule(table, fold=1, num_folds=3, val_fraction=0)
    assert splits(data)["test"] == [1, 4, 7, 10]
    with pytest.raises(ValueError, match="folds are 0 to 2, got 3"):
        FeatureBagsDataModule(table, fold=3, num_folds=3)


@pytest.mark.parametrize("bag", ["slide", "patient"])
@pytest.mark.parametrize("val_fraction", [0.25, 0.0])
def test_written_splits_read_back_as_they_were(write_slides, tmp_path, bag, val_fraction):
    table = write_slides(24, label=["neg", "pos"] * 12)
    options = {"bag": bag, "val_fraction": val_fraction, "features": table.parent / "features"}
    first = FeatureBagsDataModule(table, fold=2, num_folds=4, **options)
    one, two = tmp_path / "splits.csv", tmp_path / "again.csv"
    digest = first.write_splits(one)
    second = FeatureBagsDataModule(one, split_seed=5, **options)
    assert splits(second) == splits(first) and second.class_names == first.class_names
    assert second.write_splits(two) == digest
    assert FeatureBagsDataModule(table, fold=2, num_folds=4, **options).write_splits(two) == digest
    with one.open() as stream:
        rows = list(csv.DictReader(stream))
    assert [r["slide_id"] for r in rows] == [f"s{i}" for i in range(24)]
    assert [r["patient_id"] for r in rows] == patients(24)
    held = {}
    for row in rows:
        held.setdefault(row["patient_id"], set()).add(row["split"])
    assert {len(s) for s in held.values()} == {1}
    if bag == "slide":
        for split in ("train", "val", "test"):
            assert [i for i, r in enumerate(rows) if r["split"] == split] == splits(first)[split]


def test_evaluation_reads_whole_bags_in_order(write_slides):
    table = write_slides(24, size=9)
    data = FeatureBagsDataModule(table, max_instances=4, batch_size=2, eval_batch_size=3)
    train = data.train_dataloader()
    assert {size for bags in train for size in bags.sizes().tolist()} == {4}
    seen = [b for bags in data.test_dataloader() for b in bags.index.tolist()]
    assert seen == data.numbers("test")
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert {size for bags in loader for size in bags.sizes().tolist()} == {9}


def test_batches_do_not_depend_on_workers(write_slides):
    table = write_slides(12, size=30)
    options = {"max_instances": 7, "sampler": "class_balanced", "batch_size": 4, "seed": 2}
    batches = []
    for workers in (0, 2):
        train = FeatureBagsDataModule(table, num_workers=workers, **options).train_dataloader()
        train.batch_sampler.set_epoch(3)
        batches.append(list(train))
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.index, other.index) and torch.equal(one.features, other.features)
        assert one.groups == other.groups and one.bag_ids == other.bag_ids


def test_a_sampler_draws_from_the_training_bags_alone(write_slides):
    labels, weight = [0] * 18 + [1] * 6, [0] * 8 + [1] * 16
    table = write_slides(24, label=labels, patient_id=None, weight=weight)
    balanced = FeatureBagsDataModule(table, sampler="class_balanced", batch_size=2)
    drawn = [b for bags in balanced.train_dataloader() for b in bags.labels.tolist()]
    assert len(drawn) == 16 and sum(drawn) == 8
    chosen = {}
    for name, options in {
        "weighted": {"sampler": "weighted"},
        "budget": {"token_budget": 12, "batch_size": 9},
    }.items():
        data = FeatureBagsDataModule(table, **options)
        batches = list(data.train_dataloader())
        chosen[name] = {b for bags in batches for b in bags.index.tolist()}
        assert chosen[name] <= set(data.numbers("train"))
    assert min(chosen["weighted"]) >= 8 and len(chosen["weighted"]) > 4
    assert chosen["budget"] == set(data.numbers("train"))
    assert max(int(bags.offsets[-1]) for bags in batches) == 12


def test_what_is_cut_is_told(write_slides, caplog):
    table = write_slides(20)  # 3 to 6 instances
    with caplog.at_level(logging.INFO):
        data = FeatureBagsDataModule(table, max_instances=5, val_fraction=0, test_fraction=0)
        data.train_dataloader()
    assert "5 of 20 training bags have more than 5 instances" in caplog.text


def test_summary_counts_what_is_there(write_slides):
    table = write_slides(8, split=["train", "train", "val", "val"] * 2, patient_id=list("ppqqrrss"))
    assert FeatureBagsDataModule(table).summary() == {
        "train": {"bags": 4, "instances": 14, "features": 4, "classes": 2, "patients": 2},
        "val": {"bags": 4, "instances": 22, "features": 4, "classes": 2, "patients": 2},
    }


def test_what_a_checkpoint_carries_rebuilds_the_bags(write_slides):
    table = write_slides(8)
    data = FeatureBagsDataModule(table, bag="patient", eval_batch_size=3)
    arguments = data.evaluation_arguments()
    assert arguments.pop("standardise") is False
    again = FeatureBagsDataModule(table, class_names=["a", "b"], **arguments)
    assert len(again.bags) == 4 and again.eval_batch_size == 3 and again.class_names == ["a", "b"]


def test_other_tables_get_the_labels_of_patients_as_the_training_did(write_slides):
    table = write_slides(8, patient_id=list("ppqqrrss"))
    data = FeatureBagsDataModule(table, bag="patient", patient_label="max")
    arguments = data.evaluation_arguments()
    del arguments["standardise"]
    again = FeatureBagsDataModule(table, class_names=["a", "b"], **arguments)
    assert again.bags.labels.tolist() == data.bags.labels.tolist() == [1] * 4
    with pytest.raises(ValueError, match="patient_label max has no effect on bags of slides; set"):
        FeatureBagsDataModule(table, patient_label="max")
    with pytest.raises(ValueError, match="patient_label is same or max, got 'any'"):
        FeatureBagsDataModule(table, bag="patient", patient_label="any")


def test_without_labels_there_is_nothing_to_train_on(write_slides):
    data = FeatureBagsDataModule(write_slides(4, label=None), class_names=["a", "b"])
    assert splits(data) == {"train": [], "val": [], "test": [], "predict": [0, 1, 2, 3]}
    assert [bags.labels.tolist() for bags in data.predict_dataloader()] == [[-1]] * 4
    with pytest.raises(ValueError, match="no training bags; without labels, bags can only be"):
        data.train_dataloader()


class Counting(pl.LightningModule):
    """Counts bags and can be stopped nowhere."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.seen = []

    def training_step(self, bags, batch_idx):
        self.seen.append(bags.index.tolist())
        return self.layer(bags.in_single_precision().features).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("budget", [None, 12])
def test_a_run_records_its_splits_and_draws_anew_every_epoch(write_slides, tmp_path, budget):
    data = FeatureBagsDataModule(write_slides(16), token_budget=budget, batch_size=2 + bool(budget))
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, logger=pl.loggers.CSVLogger(tmp_path), log_every_n_steps=1,
        use_distributed_sampler=False,
    )  # fmt: skip
    module = Counting()
    trainer.fit(module, datamodule=data)
    steps = len(module.seen) // 2
    assert steps == len(data.training_batches())
    assert module.seen[:steps] != module.seen[steps:]
    data.write_splits(tmp_path / "expected.csv")
    recorded = tmp_path / "lightning_logs" / "version_0" / "splits.csv"
    assert recorded.read_bytes() == (tmp_path / "expected.csv").read_bytes()
