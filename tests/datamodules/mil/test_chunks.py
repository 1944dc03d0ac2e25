"""Every instance of every bag once per epoch, in chunks of bounded size."""

from collections import Counter

import numpy as np
import pytest
import torch

from datamodules.mil.chunks import ChunkBatchSampler, ChunkedBags
from datamodules.mil.digit_bags import DigitBagsDataModule
from datamodules.mil.features import FeatureBagsDataModule
from datamodules.mil.npz import TabularBagsDataModule
from datamodules.mil.samplers import BatchPlan
from datamodules.sampling.resumable import resumable_loader
from structures import BagBatch, processes

SIZES, LABELS = np.array([9, 1, 16, 8, 30, 5]), np.array([0, 1, 0, 1, 0, 1])
NUMBERS = [4, 0, 9, 2, 7, 5]


class Source:
    """Bags whose features are (bag, instance), and a count of what is read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 10

    def bag(self, number):
        self.read.append(number)
        place = NUMBERS.index(number)
        rows = torch.arange(int(SIZES[place]))
        features = torch.stack([torch.full_like(rows, number), rows], dim=1).float()
        label = torch.from_numpy(LABELS[place : place + 1])
        return BagBatch(features, torch.tensor([0, len(rows)]), label, torch.tensor([number]))


def sampler(batch_size=4, chunk=8, **options):
    return ChunkBatchSampler(NUMBERS, LABELS, SIZES, chunk, batch_size, **options)


def epoch_of(batches, epoch=0):
    batches.set_epoch(epoch)
    found = list(batches)
    assert len(found) == len(batches)
    return found


def instances(batches, source=None, chunk=8, seed=0):
    data = ChunkedBags(source or Source(), chunk, seed)
    bags = [data[key] for keys in batches for key in keys]
    assert max(len(bag.features) for bag in bags) <= chunk
    for bag in bags:
        bag.check()
        assert torch.equal(bag.features[:, 1].long(), bag.numbers())
    return [tuple(row) for bag in bags for row in bag.features.long().tolist()]


EVERYTHING = sorted((n, i) for n, size in zip(NUMBERS, SIZES, strict=True) for i in range(size))


@pytest.mark.parametrize("opened", [1 << 17, 25, 1])
@pytest.mark.parametrize(("chunk", "batch_size"), [(8, 4), (1, 64), (7, 3), (100, 2)])
def test_an_epoch_has_every_instance_once(chunk, batch_size, opened):
    orders = []
    for epoch in range(3):
        batches = epoch_of(sampler(batch_size, chunk, opened=opened), epoch)
        found = instances(batches, chunk=chunk)
        assert sorted(found) == EVERYTHING
        assert all(len(keys) == batch_size for keys in batches[:-1])
        orders.append(found)
    assert orders[0] != orders[1] != orders[2]
    again = epoch_of(sampler(batch_size, chunk, opened=opened), 2)
    assert instances(again, chunk=chunk) == orders[2]


def test_chunks_of_a_bag_are_random_parts_of_nearly_equal_size():
    keys = [key for batch in epoch_of(sampler(chunk=8)) for key in batch if key.index == 7]
    data = ChunkedBags(Source(), 8, seed=3)
    parts = [data[key].numbers().tolist() for key in sorted(keys, key=lambda k: k.chunk)]
    assert [len(part) for part in parts] == [8, 8, 7, 7]
    assert all(part == sorted(part) for part in parts)
    assert parts[0] != list(range(8))
    other = [ChunkedBags(Source(), 8, seed=4)[key].numbers().tolist() for key in keys]
    assert sorted(parts) != sorted(other)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("world", [2, 3, 20])
def test_processes_share_the_steps_of_one_and_make_equally_many(monkeypatch, batch_size, world):
    one = epoch_of(sampler(batch_size * world), 1)
    ranks = []
    for rank in range(world):
        monkeypatch.setattr(processes, "rank_and_world_size", lambda rank=rank: (rank, world))
        ranks.append(epoch_of(sampler(batch_size), 1))
    for together, alone in zip(zip(*ranks, strict=True), one, strict=True):
        assert all(together)  # a process without a batch would miss the collective calls
        joined = [key for keys in together for key in keys]
        assert joined[: len(alone)] == alone
        assert set(joined) == set(alone)
        assert len(joined) == max(len(alone), world)


def test_a_bag_is_read_once_per_epoch():
    for opened, kept in ((30, 30), (1, 1)):
        source = Source()
        data = ChunkedBags(source, 3, seed=0, kept=kept)
        for keys in epoch_of(sampler(2, 3, opened=opened)):
            for key in keys:
                assert len(data[key].features) <= 3
        assert sorted(source.read) == sorted(NUMBERS)


def test_classes_are_spread_over_the_epoch():
    """Of 40 bags 8 are positive; every group of ten bags has two of them, up to one."""
    labels, sizes = np.array([1] * 8 + [0] * 32), np.full(40, 10)
    for epoch in range(10):
        batches = ChunkBatchSampler(range(40), labels, sizes, 10, 10, opened=100)
        counts = [sum(labels[key.index] for key in keys) for keys in epoch_of(batches, epoch)]
        assert sum(counts) == 8
        assert set(counts) <= {1, 2, 3}


def test_an_epoch_is_resumed_after_the_batches_done():
    def loader():
        return resumable_loader(ChunkedBags(Source(), 8, 0), sampler(), collate_fn=BagBatch.collate)

    whole, rest = loader(), loader()
    for each in (whole, rest):
        each.batch_sampler.set_epoch(2)
    rest.load_state_dict({"epoch": 2, "batches": 2})
    for one, other in zip(list(whole)[2:], list(rest), strict=True):
        assert torch.equal(one.features, other.features)


def seen(data, epoch=0):
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(epoch)
    rows = Counter()
    for batch in loader:
        ids = batch.index.repeat_interleave(batch.sizes())
        rows.update(zip(ids.tolist(), batch.numbers().tolist(), strict=True))
    _, sizes, _ = data.contents("train")
    wanted = zip(data.numbers("train"), sizes.tolist(), strict=True)
    assert rows == Counter({(b, i): 1 for b, size in wanted for i in range(size)})
    return list(rows)


def test_every_datamodule_trains_on_every_instance(write_slides, tmp_path):
    options = {"chunk_instances": 2, "batch_size": 5}
    table = write_slides(20, size=9)
    slides = FeatureBagsDataModule(table, **options)
    assert seen(slides) != seen(slides, 1)
    assert seen(FeatureBagsDataModule(table, bag="patient", num_workers=2, **options))
    np.savez(
        tmp_path / "a.npz", X=np.ones((60, 4)), bag_index=np.arange(60) // 3, y=np.arange(20) % 2
    )
    seen(TabularBagsDataModule(tmp_path / "a.npz", **options))
    seen(DigitBagsDataModule(**options))
    whole = next(iter(slides.val_dataloader()))
    assert whole.sizes().tolist() == [9] and whole.instance_index is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_instances": 0}, "chunk_instances must be at least 1"),
        ({"max_instances": 5}, "max_instances would change"),
        ({"token_budget": 5, "batch_size": 2}, "token_budget would change"),
        ({"sampler": "class_balanced"}, "sampler: class_balanced would change"),
    ],
)
def test_options_that_leave_instances_out_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BatchPlan(**({"chunk_instances": 8} | options))


def test_no_bags():
    with pytest.raises(ValueError, match="no bags"):
        ChunkBatchSampler([], LABELS[:0], SIZES[:0], 8, 4)
