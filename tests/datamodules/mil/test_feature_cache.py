"""Features kept in memory, which workers share."""

import copy
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from datamodules.mil import feature_cache
from datamodules.mil.feature_bags import FeatureBags
from datamodules.mil.feature_cache import FeatureCache
from datamodules.mil.feature_set import FeatureFolder, FeatureSet
from datamodules.mil.features import FeatureBagsDataModule
from datamodules.sampling.keys import SampleKey
from formats.features import FeatureFile


def arrays(number, rows=5, coords=True):
    rng = np.random.default_rng(number)
    features = torch.from_numpy(rng.normal(size=(rows, 4)).astype(np.float16))
    return FeatureFile(features, torch.arange(2 * rows).reshape(rows, 2) if coords else None)


def same(one, other):
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
    return True


def test_what_was_put_in_comes_out_bit_for_bit():
    cache = FeatureCache({3: 4096, 8: 4096, 1: 4096}, 1 << 20)
    assert cache.get(3) is None and cache.get(99) is None
    for number in (3, 8):
        cache.put(number, arrays(number, coords=number == 3))
    assert same(cache.get(3), arrays(3)) and same(cache.get(8), arrays(8, coords=False))
    assert cache.get(1) is None
    brain = FeatureFile(torch.full((2, 3), torch.nan, dtype=torch.bfloat16), None)
    cache.put(1, brain)
    found = cache.get(1).features
    assert found.dtype == torch.bfloat16 and found.isnan().all()
    assert same(cache.get(3), arrays(3))


def test_slides_beyond_the_limit_are_not_kept_and_smaller_ones_still_are():
    cache = FeatureCache({0: 3000, 1: 90_000, 2: 3000}, 10_000)
    assert cache.kept == {0, 2} and cache.bytes <= 10_000
    for number in range(3):
        cache.put(number, arrays(number))
    assert cache.get(1) is None and same(cache.get(2), arrays(2))
    cache.put(0, arrays(0, rows=2000))  # larger than it said
    assert (
        cache.get(0) is not None and same(cache.get(0), arrays(0)) and same(cache.get(2), arrays(2))
    )


def test_a_copy_in_a_worker_that_was_not_forked_shares_the_memory():
    cache = FeatureCache({0: 3000}, 1 << 20)
    other = ForkingPickler.loads(ForkingPickler.dumps(cache))
    other.put(0, arrays(0))
    assert same(cache.get(0), arrays(0))
    del other
    assert same(copy.deepcopy(cache).get(0), arrays(0))


@pytest.mark.parametrize("gib", [-1.0, float("nan"), float("inf")])
def test_a_memory_that_is_none(gib):
    with pytest.raises(ValueError, match="cache_gib is the memory for features in GiB"):
        FeatureCache.of_size({0: 10}, gib)


def test_more_than_the_machine_has(monkeypatch):
    monkeypatch.setattr(feature_cache, "machine_memory", lambda: 1 << 30)
    assert FeatureCache.of_size({0: 1000}, 64.0) is not None  # as far as it is needed
    with pytest.raises(ValueError, match=r"take 2 GiB and this machine has 1 GiB.*give less"):
        FeatureCache.of_size({0: 2 << 30}, 64.0)


def bags_of(data, split="train", most=None):
    cut = FeatureBags(data, most, 0)
    return [cut[SampleKey(n, epoch)] for n in range(len(data)) for epoch in (0, 1)]


@pytest.mark.parametrize("by_patient", [False, True])
@pytest.mark.parametrize("most", [None, 4])
def test_bags_from_memory_are_those_of_the_files(write_slides, by_patient, most):
    table = write_slides(8, size=6)
    plain = FeatureSet(table, FeatureFolder(by_patient=by_patient))
    kept = FeatureSet(table, FeatureFolder(by_patient=by_patient))
    assert kept.keep_in_memory(range(len(kept)), 0.1) == len(kept)
    for one, other in zip(bags_of(plain, most=most), bags_of(kept, most=most), strict=True):
        assert torch.equal(one.features, other.features) and one.features.dtype == torch.float16
        assert (one.coords is None) == (other.coords is None)
        assert one.coords is None or torch.equal(one.coords, other.coords)
        assert torch.equal(one.numbers(), other.numbers())


@pytest.mark.parametrize("options", [{}, {"max_instances": 5}, {"chunk_instances": 4}], ids=str)
def test_workers_read_a_file_once_for_all_of_them(write_slides, options):
    table = write_slides(16, size=9)
    given = {"table": table, "batch_size": 3, "val_fraction": 0.25, **options}
    plain = FeatureBagsDataModule(**given)
    data = FeatureBagsDataModule(**given, num_workers=2, cache_gib=0.1)
    loaders = data.train_dataloader(), plain.train_dataloader()
    list(loaders[0]), list(data.val_dataloader())
    for number in (*data.numbers("train"), *data.numbers("val")):
        next((table.parent / "features").glob(f"s{number}.*")).rename(table.parent / f"{number}")
    found = {}
    for epoch in (1, 2, 3):
        loaders[0].batch_sampler.set_epoch(epoch)
        found[epoch] = list(loaders[0])
    assert len(list(data.val_dataloader())) == len(data.numbers("val"))
    for number in data.numbers("train"):
        suffix = (".npy", ".h5", ".pt", ".safetensors")[number % 4]
        (table.parent / f"{number}").rename(table.parent / "features" / f"s{number}{suffix}")
    for epoch, batches in found.items():
        loaders[1].batch_sampler.set_epoch(epoch)
        for one, other in zip(batches, loaders[1], strict=True):
            assert torch.equal(one.features, other.features)
            assert torch.equal(one.numbers(), other.numbers())
            assert one.bag_ids == other.bag_ids


def test_a_line_says_how_many_bags_fit(write_slides, caplog):
    data = FeatureBagsDataModule(write_slides(16, size=9), cache_gib=1.5e-5)
    with caplog.at_level("INFO"):
        data.train_dataloader()
    kept = len(data.bags._cache.kept)
    assert 0 < kept < 14
    assert f"{kept} of 14 training and validation bags fit into 1.5e-05 GiB" in caplog.text
    assert data.bags._cache.bytes <= 1.5e-5 * 2**30
    caplog.clear()
    with caplog.at_level("INFO"):
        FeatureBagsDataModule(write_slides(16, size=9, name="b"), cache_gib=1).train_dataloader()
    assert "cache_gib" not in caplog.text
