import numpy as np
import pytest

from datamodules.sampling.keys import keyed_generator
from datamodules.transforms.augment import Augmentation
from datamodules.transforms.label_maps import LabelMaps
from structures import RLEMasks

DISCS = [(40.3, 30.7, 17.2), (90.1, 60.2, 22.4), (30.5, 75.5, 12.3)]  # x, y, radius

EXACT = [
    {"name": "HorizontalFlip", "p": 1.0},
    {"name": "VerticalFlip", "p": 1.0},
    {"name": "RandomRotate90", "p": 1.0},
    {"name": "Transpose", "p": 1.0},
    {"name": "RandomCrop", "p": 1.0, "height": 80, "width": 90},
    {"name": "PadIfNeeded", "p": 1.0, "min_height": 120, "min_width": 150},
]
INTERPOLATED = [
    {"name": "Affine", "p": 1.0, "rotate": [-30, 30], "scale": [0.6, 1.4], "shear": [-8, 8]},
    {"name": "RandomSizedCrop", "p": 1.0, "min_max_height": [60, 90], "size": [70, 80]},
    {"name": "RandomResizedCrop", "p": 1.0, "size": [64, 64], "scale": [0.5, 1.0]},
    {"name": "RandomScale", "p": 1.0, "scale_limit": [-0.5, 0.5]},
    {"name": "SmallestMaxSize", "p": 1.0, "max_size": 50},
    {"name": "ElasticTransform", "p": 1.0, "alpha": 60, "sigma": 6},
    {"name": "Perspective", "p": 1.0},
    {"name": "GridDistortion", "p": 1.0},
]


def discs(height=96, width=128):
    """Three discs, red, green and blue, on dark grey: every mask can be seen in the image."""
    y, x = np.mgrid[:height, :width] + 0.5
    image = np.full((height, width, 3), 20, dtype=np.uint8)
    masks = np.array([(x - cx) ** 2 + (y - cy) ** 2 <= r * r for cx, cy, r in DISCS])
    for channel, mask in enumerate(masks):
        image[mask, channel] = 250
    return image, LabelMaps.from_rle(RLEMasks.from_dense(masks))


def seen(image, channel):
    """Return where a disc's colour covers more than half of the pixel."""
    others = np.delete(image, channel, axis=2).max(axis=2).astype(int)
    return image[..., channel].astype(int) - others > 115


def name_of(spec):
    return spec["name"]


@pytest.mark.parametrize("spec", EXACT, ids=name_of)
def test_masks_equal_colours_exactly(spec):
    augment = Augmentation([spec])
    for key in range(8):
        image, maps = augment(*discs(), keyed_generator(9, key))
        targets = maps.targets()
        assert image.shape[:2] == maps.size
        for k, box, mask in zip(targets.keep, targets.boxes, targets.masks, strict=True):
            colour = seen(image, k)
            assert np.array_equal(mask, colour)
            rows, columns = np.nonzero(colour)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == edges


@pytest.mark.parametrize("spec", INTERPOLATED, ids=name_of)
def test_masks_follow_colours_without_a_shift(spec):
    augment = Augmentation([spec])
    offsets = []
    for key in range(25):
        image, maps = augment(*discs(), keyed_generator(9, key))
        targets = maps.targets()
        for k, mask in zip(targets.keep, targets.masks, strict=True):
            colour = seen(image, k)
            rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
            if rim.any() or mask.sum() < 60:
                continue  # cut discs have no outline to compare
            outline = np.sqrt(4 * np.pi * mask.sum())
            assert (mask != colour).sum() < 0.3 * outline
            offsets.append(
                [
                    np.mean(m) - np.mean(c)
                    for m, c in zip(np.nonzero(mask), np.nonzero(colour), strict=True)
                ]
            )
    assert len(offsets) >= 10
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.03  # a corner convention would give 0.5
    assert np.abs(offsets).max() < 0.5


def test_equal_keys_give_equal_images_and_others_do_not():
    specs = [
        {"name": "HorizontalFlip", "p": 0.5},
        {"name": "Affine", "p": 0.7, "rotate": [-30, 30]},
        {"name": "RandomCrop", "height": 64, "width": 64},
        {"name": "RandomBrightnessContrast", "p": 0.8},
        {"name": "GaussNoise", "p": 0.8},
        {"name": "HueSaturationValue", "p": 0.8},
        {"name": "ElasticTransform", "p": 0.5},
        {"name": "GaussianBlur", "p": 0.5},
    ]
    one, two = Augmentation(specs), Augmentation(specs)
    made = []
    for key in range(12):
        image, maps = one(*discs(), keyed_generator(9, 0, key))
        np.random.seed(key)  # global state must not matter
        one(*discs(), keyed_generator(9, 1, key))
        again, same = two(*discs(), keyed_generator(9, 0, key))
        assert np.array_equal(image, again)
        assert np.array_equal(maps.maps, same.maps)
        made.append(image.tobytes())
    assert len(set(made)) == 12


def test_labels_follow_masks_when_some_vanish():
    augment = Augmentation([{"name": "Crop", "x_min": 64, "y_min": 0, "x_max": 128, "y_max": 96}])
    _, maps = augment(*discs(), keyed_generator(9, 0))
    assert len(maps) == 3
    assert maps.targets().keep.tolist() == [1]  # only the green disc lies in the right half


def test_image_without_instances():
    augment = Augmentation([{"name": "RandomCrop", "height": 20, "width": 30}])
    nothing = LabelMaps.from_rle(RLEMasks.from_runs([], (96, 128)))
    image, maps = augment(discs()[0], nothing, keyed_generator(9, 0))
    assert image.shape == (20, 30, 3)
    assert maps.size == (20, 30)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "HorizontalFlop"}, r"'HorizontalFlop' is not an albumentations"),
        ({"p": 0.5}, r"augmentations\[1\]: None is no"),
        ({"name": "Compose"}, "'Compose' is no"),
        ({"name": "Affine", "rotation": 3}, r"augmentations\[1\]: Affine has no argument rotation"),
        ({"name": "RandomCrop"}, r"augmentations\[1\]: RandomCrop: "),
        ({"name": "HorizontalFlip", "p": 7}, r"augmentations\[1\]: HorizontalFlip: "),
        ({"name": "Affine", "fill_mask": 1}, "fill_mask must be 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:Argument")
def test_mistakes_name_the_entry(spec, message):
    with pytest.raises(ValueError, match=message):
        Augmentation([{"name": "VerticalFlip"}, spec])


def test_what_a_transform_cannot_do_is_told():
    crop = Augmentation([{"name": "RandomCrop", "height": 200, "width": 200}])
    message = r"augmentations\[0\] \(RandomCrop\) failed with CropSizeError: .*; change its arg"
    with pytest.raises(ValueError, match=message):
        crop(*discs(), keyed_generator(9, 0))
    floats = Augmentation([{"name": "Normalize"}])
    with pytest.raises(ValueError, match="float32"):
        floats(*discs(), keyed_generator(9, 0))
