import pickle

import numpy as np
import pytest

from datamodules.mosaic_dataset import MosaicDataset
from datamodules.mosaic_options import MosaicOptions
from datamodules.picture_cache import PictureCache
from datamodules.samplers import EpochBatchSampler
from datamodules.seg_dataset import AnnotatedPicture
from datamodules.transforms import LabelMaps
from structures import RLEMasks


class Counting:
    """Pictures of 24 x 32 px with a square each; notes which are read."""

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
        return AnnotatedPicture(
            image, maps, np.array([index]), np.array([False]), index + 1, f"picture {index}"
        )


def test_pictures_are_reduced_with_their_masks_but_not_enlarged():
    reduced = PictureCache(Counting(), 16, 4).read(3)
    assert reduced.size == (24, 32)
    assert reduced.tile.size == (12, 16)
    assert reduced.tile.pixels.tolist() == [20]
    cutout = reduced.tile.cutouts[0]
    assert (cutout.top, cutout.left, cutout.mask.shape) == (2, 3, (4, 5))
    assert reduced.tile.centres.tolist() == [[5.5, 4]]
    assert reduced.tile.image[2:6, 3:8].min() == 252
    assert (reduced.image_id, reduced.name) == (4, "picture 3")
    kept = PictureCache(Counting(), 100, 4).read(3)
    assert kept.tile.size == (24, 32)


@pytest.mark.parametrize("window", [3, 10])
@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_an_epoch_reads_every_picture_once_and_keeps_few(window, mixup):
    source = Counting()
    options = MosaicOptions(size=32, window=window, mixup=mixup, copy_paste=0.5)
    dataset = MosaicDataset(source, options)
    sampler = EpochBatchSampler(range(60), 4, shuffle=True, drop_last=True, window=window)
    kept = []
    for keys in sampler:
        for key in keys:
            dataset[key]
            kept.append(len(dataset.cache))
    assert sorted(source.reads) == list(range(60))
    assert max(kept) == window + 1
    source.reads.clear()
    sampler.set_epoch(1)
    for keys in sampler:
        dataset.__getitems__(keys)
    assert len(source.reads) <= 60  # some of the last epoch may still be there
    assert len(set(source.reads)) == len(source.reads)
    assert len(dataset.cache) == window + 1


def test_copies_for_other_processes_start_empty():
    cache = PictureCache(Counting(), 32, 4)
    for index in range(3):
        cache.read(index)
    copy = pickle.loads(pickle.dumps(cache))
    assert (len(cache), len(copy)) == (3, 0)
    assert copy.read(1).image_id == 2
    assert (copy.capacity, copy.long_side) == (4, 32)


def test_the_one_kept_longest_goes_first_unless_renewed():
    source = Counting()
    cache = PictureCache(source, 32, 3)
    for index in (0, 1, 2):
        cache.read(index)
    cache.read(0)  # as a neighbour
    cache.read(1, renew=True)
    cache.read(3)  # 0 goes
    cache.read(4)  # 2 goes
    source.reads.clear()
    for index in (1, 3, 4):
        cache.read(index)
    assert source.reads == []
    cache.read(0)
    assert source.reads == [0]
