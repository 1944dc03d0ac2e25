"""Training that draws from augmented versions of the features, one a bag and epoch."""

import csv
import re
from collections import Counter

import h5py
import numpy as np
import pytest
import torch

import evaluate
from datamodules.mil.feature_bags import FeatureBags
from datamodules.mil.feature_set import FeatureFolder, FeatureSet
from datamodules.mil.features import FeatureBagsDataModule
from datamodules.sampling.keys import SampleKey
from engine.cross_validation.reading import reader

K, ROWS = 3, 6


@pytest.fixture
def versioned(tmp_path):
    """Return a function that writes slides whose features tell slide, version and row."""

    def write(count=8, versions=(K,)):
        folder = tmp_path / "features"
        folder.mkdir()
        lines = []
        for slide in range(count):
            values = 100 * slide + np.arange(ROWS)[:, None] + np.zeros((1, 4))
            with h5py.File(folder / f"s{slide}.h5", "w") as file:
                file["features"] = values.astype(np.float16)
                file["coords"] = np.arange(2 * ROWS).reshape(ROWS, 2)
                for version in range(versions[slide % len(versions)]):
                    file[f"augmented/{version + 1}"] = (values + 10 * (version + 1)).astype("f2")
            lines.append((f"s{slide}", f"p{slide // 2}", slide // 2 % 2))
        with (tmp_path / "slides.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("slide_id", "patient_id", "label"))
            writer.writerows(lines)
        return tmp_path / "slides.csv"

    return write


def drawn(bag):
    """The version of a bag, which all of its instances must share."""
    found = (bag.features.long() % 100) // 10
    assert len(found.unique()) == 1
    return int(found[0, 0])


def test_a_version_is_drawn_for_each_bag_and_epoch(versioned):
    data = FeatureBagsDataModule(versioned(40), augmented=True, batch_size=2, val_fraction=0.25)
    loader, versions = data.train_dataloader(), {}
    for epoch in range(12):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            versions |= {
                (i, epoch): drawn(b) for i, b in zip(batch.bag_ids, split(batch), strict=True)
            }
    counts = Counter(versions.values())
    assert sorted(counts) == [0, 1, 2, 3]  # 0 are those without augmentation
    assert min(counts.values()) > len(versions) / 8
    for bag in {bag for bag, _ in versions}:
        assert len({versions[bag, epoch] for epoch in range(12)}) > 1
    again = FeatureBagsDataModule(
        data.bags.path, augmented=True, batch_size=3, val_fraction=0.25, num_workers=2
    ).train_dataloader()
    again.batch_sampler.set_epoch(5)
    for batch in again:
        for name, bag in zip(batch.bag_ids, split(batch), strict=True):
            assert versions[name, 5] == drawn(bag)
    for held_out in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert {drawn(bag) for bag in held_out} == {0}


def split(batch):
    return [batch.bag(position) for position in range(len(batch))]


def test_another_seed_draws_otherwise(versioned):
    bags = FeatureSet(versioned())
    bags.use_versions(range(len(bags)))
    keys = [SampleKey(n, epoch) for n in range(8) for epoch in range(4)]
    one, two = ([drawn(FeatureBags(bags, None, s, K)[k]) for k in keys] for s in (0, 1))
    assert one != two
    assert {drawn(FeatureBags(bags)[key]) for key in keys} == {0}


def test_rows_do_not_depend_on_the_version(versioned):
    bags = FeatureSet(versioned())
    bags.use_versions(range(len(bags)))
    plain, other = FeatureBags(bags, 3, 0), FeatureBags(bags, 3, 0, K)
    seen = set()
    for key in (SampleKey(n, epoch) for n in range(8) for epoch in range(4)):
        one, two = plain[key], other[key]
        assert torch.equal(one.features + 10 * drawn(two), two.features)
        assert torch.equal(one.numbers(), two.numbers()) and torch.equal(one.coords, two.coords)
        seen.add(drawn(two))
    assert len(seen) > 1


@pytest.mark.parametrize("by_patient", [False, True])
def test_memory_keeps_every_version(versioned, by_patient):
    table = versioned()
    bags = [FeatureSet(table, FeatureFolder(by_patient=by_patient)) for _ in range(2)]
    for one in bags:
        one.use_versions(range(len(one) - 1))
    count = len(bags[0])
    assert bags[1].keep_in_memory(range(count), 0.1) == count
    keys = [SampleKey(n, epoch) for n in range(count - 1) for epoch in (*range(9), *range(9))]
    files, kept = (FeatureBags(one, None, 0, K) for one in bags)
    for key in keys:
        assert torch.equal(files[key].features, kept[key].features)
    assert len({drawn(kept[key]) for key in keys}) == 4
    for version in range(1, K + 1):  # of the bag that is not trained on
        assert torch.equal(*(one.bag(count - 1, version=version).features for one in bags))
    small = FeatureSet(table, FeatureFolder(by_patient=by_patient))
    small.use_versions(range(count))
    slide = small.slides(0)[0].bytes_in_memory + 1024 + 64
    assert small.keep_in_memory(range(count), slide * (K + 1) * (1 + by_patient) / 2**30) == 1


def test_files_that_do_not_have_them(versioned):
    table = versioned(versions=(K, 0, K, K, K, 2))
    with pytest.raises(ValueError, match="extract them with --data.augmented K") as caught:
        FeatureBagsDataModule(table, augmented=True, val_fraction=0, test_fraction=0.25)
    said = str(caught.value)
    assert re.search(r"s\d\.h5.* no augmented versions", said)
    assert "2 augmented versions, but slide s0 has 3" in said
    assert FeatureBagsDataModule(table).bags.versions == 0
    with pytest.raises(ValueError, match="leave out chunk_instances"):
        FeatureBagsDataModule(table, augmented=True, chunk_instances=4)


def test_slides_that_are_not_trained_on_need_none(versioned):
    table = versioned(versions=(K,) * 6 + (0, 0))
    lines = table.read_text().splitlines()
    names = ["split", *["train"] * 6, *["test"] * 2]
    table.write_text("\n".join(f"{a},{b}" for a, b in zip(lines, names, strict=True)))
    data = FeatureBagsDataModule(table, augmented=True, val_fraction=0)
    assert data.bags.versions == K
    assert {drawn(bag) for bag in data.test_dataloader()} == {0}


def test_folds_draw_as_well(versioned):
    bags = FeatureSet(versioned())
    bags.use_versions(range(len(bags)))
    read = reader(bags, None, 0)
    trained = {drawn(read([n], epoch)) for n in range(8) for epoch in range(4)}
    assert len(trained) == 4
    assert {drawn(read([n], None)) for n in range(8)} == {0}


def test_mil_cv_says_which_file_has_none(versioned, capfd):
    table = versioned(versions=(K, 0))
    words = ["mil-cv", "--config", "configs/mil/abmil_features.yaml", "--data", str(table)]
    words += ["--folds", "2", "--repeats", "1", "--data.num_workers", "0"]
    assert evaluate.main([*words, "--data.augmented", "true"]) == 2
    said = capfd.readouterr().err
    assert "4 x its features have no augmented versions" in said
    assert "s1.h5, slide s1" in said and "extract them with --data.augmented K" in said
