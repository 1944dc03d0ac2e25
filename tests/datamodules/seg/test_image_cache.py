import pickle

import numpy as np
import pytest

from datamodules.sampling.keys import EpochBatchSampler, images_to_keep
from datamodules.seg.dataset import AnnotatedImage
from datamodules.seg.image_cache import ImageCache
from datamodules.seg.mosaic import MosaicDataset
from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.transforms.label_maps import LabelMaps
from structures import RLEMasks


class Counting:
    """Images of 24 x 32 px with a square each; notes which are read."""

    def __init__(self, count=60, size=(24, 32)):
        self.count, self.size, self.reads = count, size, []

    def __len__(self):
        return self.count

    def read(self, index):
        self.reads.append(index)
        mask = np.zeros((1, *self.size), dtype=bool)
        mask[0, 4:12, 6:16] = True
        image = np.full((*self.size, 3), index % 256, dtype=np.uint8)
        image[mask[0]] = 255 - index % 256
        maps = LabelMaps.from_rle(RLEMasks.from_dense(mask))
        return AnnotatedImage(
            image, maps, np.array([index]), np.array([False]), index + 1, f"image {index}"
        )


def test_images_are_reduced_with_their_masks_but_not_enlarged():
    reduced = ImageCache(Counting(), 16, 4).read(3)
    assert reduced.size == (24, 32)
    assert reduced.tile.size == (12, 16)
    assert reduced.tile.pixels.tolist() == [20]
    cutout = reduced.tile.cutouts[0]
    assert (cutout.top, cutout.left, cutout.mask.shape) == (2, 3, (4, 5))
    assert reduced.tile.centres.tolist() == [[5.5, 4]]
    assert reduced.tile.image[2:6, 3:8].min() == 252
    assert (reduced.image_id, reduced.name) == (4, "image 3")
    kept = ImageCache(Counting(), 100, 4).read(3)
    assert kept.tile.size == (24, 32)


@pytest.mark.parametrize("window", [3, 10])
@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_an_epoch_reads_every_image_once_and_keeps_few(window, mixup):
    source = Counting(160)
    options = MosaicOptions(size=32, window=window, mixup=mixup, copy_paste=0.5)
    kept = images_to_keep(window, 4, 0)
    dataset = MosaicDataset(source, options, kept=kept)
    sampler = EpochBatchSampler(range(160), 4, shuffle=True, drop_last=True, window=window)
    for keys in sampler:
        dataset.__getitems__(keys)
        assert len(dataset.cache) <= kept
    assert sorted(source.reads) == list(range(160))
    assert len(dataset.cache) == kept == {3: 4, 10: 8 * 2 * 4 + 4}[window]


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_a_worker_reads_little_that_is_not_its_own(workers):
    """As a ``DataLoader`` deals batches out, which takes them in turn."""
    window, batch, source = 10, 4, Counting(400)
    kept = images_to_keep(window, batch, workers)
    options = MosaicOptions(size=32, window=window)
    datasets = [MosaicDataset(source, options, kept=kept) for _ in range(workers)]
    sampler = EpochBatchSampler(range(400), batch, shuffle=True, drop_last=True, window=window)
    for step, keys in enumerate(sampler):
        source.reads.clear()
        datasets[step % workers].__getitems__(keys)
        if step >= 16:  # two rounds of eight have gone by
            assert set(source.reads) <= {key.index for key in keys}


def test_images_to_keep_are_bounded():
    assert images_to_keep(64, 16, 8) == 80
    assert images_to_keep(64, 16, 0) == images_to_keep(64, 16, 1) == 528
    assert images_to_keep(64, 16, 6) == 144
    assert images_to_keep(64, 128, 0) == 1024
    assert images_to_keep(5, 64, 32) == 64


def test_copies_for_other_processes_start_empty():
    cache = ImageCache(Counting(), 32, 4)
    for index in range(3):
        cache.read(index)
    copy = pickle.loads(pickle.dumps(cache))
    assert (len(cache), len(copy)) == (3, 0)
    assert copy.read(1).image_id == 2
    assert (copy.capacity, copy.long_side) == (4, 32)


def test_what_is_read_for_its_own_sake_stays_longest():
    source = Counting()
    cache = ImageCache(source, 32, 3)
    for index in (0, 1):
        cache.read(index, renew=True)
    cache.read(2)  # as a neighbour: there is room
    cache.read(0, renew=True)
    cache.read(3, renew=True)  # 2 goes
    cache.read(4)  # and 4 at once
    source.reads.clear()
    for index in (0, 1, 3):
        cache.read(index)
    assert source.reads == []
    cache.read(5, renew=True)  # 1 goes
    source.reads.clear()
    cache.read(0)
    cache.read(1)
    assert source.reads == [1]
