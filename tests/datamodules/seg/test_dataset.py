import numpy as np
import pytest
import torch

from datamodules.sampling.keys import SampleKey
from datamodules.seg.dataset import AnnotatedImage, SegDataset
from datamodules.transforms.augment import Augmentation
from datamodules.transforms.label_maps import LabelMaps
from structures import RLEMasks


class TwoSquares:
    """One image, 20 x 30: squares in the left and in the right half and a crowd over both."""

    def __init__(self):
        self.image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        self.masks = np.zeros((3, 20, 30), dtype=bool)
        self.masks[0, 4:10, 2:10] = True
        self.masks[1, 8:16, 20:28] = True
        self.masks[2, 9:12, 5:25] = True

    def __len__(self):
        return 1

    def read(self, index):
        assert index == 0
        maps = LabelMaps.from_rle(RLEMasks.from_dense(self.masks))
        labels, crowd = np.array([4, 7, 2]), np.array([False, False, True])
        return AnnotatedImage(self.image, maps, labels, crowd, 55, "image 55 (x.png)")

    def sizes(self):
        return np.array([[20, 30]])

    def counts(self):
        return np.array([2])


def test_sample_without_any_change():
    source = TwoSquares()
    sample = SegDataset(source)[SampleKey(0)]
    assert torch.equal(sample.images[0] * 255, torch.from_numpy(source.image).permute(2, 0, 1))
    assert sample.boxes.tolist() == [[2, 4, 10, 10], [20, 8, 28, 16], [5, 9, 25, 12]]
    assert torch.equal(sample.masks, torch.from_numpy(source.masks))
    assert sample.labels.tolist() == [4, 7, 2]
    assert sample.crowd.tolist() == [False, False, True]
    assert sample.counts.tolist() == [3]
    assert sample.sizes.tolist() == sample.original_sizes.tolist() == [[20, 30]]
    assert sample.image_ids == (55,)
    assert sample.index.tolist() == [0]


def test_labels_and_crowds_follow_the_masks_that_are_left():
    crop = Augmentation([{"name": "Crop", "x_min": 18, "y_min": 0, "x_max": 30, "y_max": 20}])
    sample = SegDataset(TwoSquares(), augmentation=crop)[SampleKey(0)]
    assert sample.labels.tolist() == [7, 2]
    assert sample.crowd.tolist() == [False, True]
    assert sample.boxes.tolist() == [[2, 8, 10, 16], [0, 9, 7, 12]]
    assert sample.sizes.tolist() == [[20, 12]]
    assert sample.original_sizes.tolist() == [[20, 30]]


def test_size_of_the_key_goes_before_that_of_the_data_set():
    data = SegDataset(TwoSquares(), short_side=10)
    assert data[SampleKey(0)].sizes.tolist() == [[10, 15]]
    assert data[SampleKey(0, 0, 40)].sizes.tolist() == [[40, 60]]
    assert data[SampleKey(0, 0, 40)].boxes.tolist()[0] == [4, 8, 20, 20]
    assert SegDataset(TwoSquares(), scale=2.0)[SampleKey(0)].sizes.tolist() == [[40, 60]]
    capped = SegDataset(TwoSquares(), scale=2.0, max_long_side=45)
    assert capped[SampleKey(0)].sizes.tolist() == [[30, 45]]


def test_mask_stride():
    sample = SegDataset(TwoSquares(), mask_stride=4)[SampleKey(0)]
    assert sample.masks.shape == (3, 5, 8)
    assert sample.mask_stride == 4
    # columns 2-9 in cells of 4: half of 0-3, all of 4-7, half of 8-11; rows 4-9: 4-7, half of 8-11
    cells = np.zeros((5, 8), dtype=bool)
    cells[1, 0:3] = True  # 8, 16 and 8 of 16 pixels
    cells[2, 1] = True  # 8 of 16; beside it 4 of 16
    assert np.array_equal(sample.masks[0].numpy(), cells)


def test_randomness_comes_from_seed_epoch_and_index():
    augment = Augmentation([{"name": "Affine", "p": 1.0, "rotate": [-40, 40]}])
    keys = [(0, 0), (0, 1), (1, 0)]
    made = {
        key: SegDataset(TwoSquares(), augment, seed=key[0])[SampleKey(0, key[1])].images
        for key in keys
    }
    assert not torch.equal(made[0, 0], made[0, 1])
    assert not torch.equal(made[0, 0], made[1, 0])
    again = SegDataset(TwoSquares(), augment, seed=0)[SampleKey(0, 1)]
    assert torch.equal(again.images, made[0, 1])


def test_failed_augmentation_names_the_image():
    crop = Augmentation([{"name": "RandomCrop", "height": 64, "width": 64}])
    with pytest.raises(ValueError, match=r"image 55 \(x.png\), 20 px high and 30 px wide: .*"):
        SegDataset(TwoSquares(), augmentation=crop)[SampleKey(0)]
