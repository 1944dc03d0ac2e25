import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.sampling.keys import SampleKey
from datamodules.seg.collate import collate_images
from datamodules.seg.dataset import AnnotatedImage
from datamodules.seg.mosaic import MosaicDataset
from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.transforms.augment import Augmentation
from datamodules.transforms.label_maps import LabelMaps
from structures import RLEMasks

PLAIN = {
    "size": 64,
    "translate": 0.0,
    "scale": 0.0,
    "hsv": (0.0, 0.0, 0.0),
    "flip": 0.0,
    "min_visible": 0.0,
    "min_side": 0.0,
}
ALL = {"size": 64, "degrees": 10, "shear": 5, "mixup": 0.5, "copy_paste": 0.5, "window": 4}
COLOURS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [250, 250, 20]], dtype=np.uint8)


class Discs:
    """Images of one disc each in a colour of its own; image 4 is empty, 5 has a crowd too."""

    sizes = ((40, 64), (64, 40), (30, 30), (100, 64), (20, 64), (64, 64))

    def __len__(self):
        return len(self.sizes)

    def read(self, index):
        height, width = self.sizes[index]
        y, x = np.mgrid[:height, :width] + 0.5
        masks = np.zeros((0, height, width), dtype=bool)
        image = np.full((height, width, 3), 60, dtype=np.uint8)
        crowd = np.zeros(0, dtype=bool)
        if index != 4:
            disc = (x - width * 0.4) ** 2 + (y - height * 0.5) ** 2 <= 12**2
            image[disc] = COLOURS[index % 4]
            masks, crowd = disc[None], np.zeros(1, dtype=bool)
        if index == 5:
            masks, crowd = np.stack([masks[0], x > 50]), np.array([False, True])
        maps = LabelMaps.from_rle(RLEMasks.from_dense(masks))
        labels = np.full(len(masks), index)
        return AnnotatedImage(image, maps, labels, crowd, 100 + index, f"image {index}")


def key(index, epoch=0, size=None):
    return SampleKey(index, epoch, size, tuple(i for i in range(6) if i != index))


def fields(batch):
    names = ("images", "sizes", "boxes", "labels", "masks", "counts", "crowd", "index")
    return [getattr(batch, name) for name in (*names, "original_sizes")]


def same(one, two):
    pairs = zip(fields(one), fields(two), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and one.image_ids == two.image_ids


def test_a_single_image_lies_in_the_middle_unchanged():
    dataset = MosaicDataset(Discs(), MosaicOptions(**PLAIN, probability=0.0))
    sample = dataset[key(0)]
    assert sample.images.shape == (1, 3, 64, 64)
    pixels = (sample.images[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(pixels[12:52], Discs().read(0).image)
    assert np.all(pixels[:12] == 114) and np.all(pixels[52:] == 114)
    mask = np.zeros((64, 64), dtype=bool)
    mask[12:52] = Discs().read(0).maps.targets().masks[0]
    assert np.array_equal(sample.masks[0].numpy(), mask)
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert sample.boxes.tolist() == [box]
    assert sample.sizes.tolist() == sample.original_sizes.tolist() == [[64, 64]]
    assert (sample.index.tolist(), sample.image_ids) == ([0], (100,))


def test_values_are_divided_by_255_as_elsewhere():
    sample = MosaicDataset(Discs(), MosaicOptions(**PLAIN, probability=0.0))[key(0)]
    assert torch.equal(sample.images, (sample.images * 255).round() / 255)


def coloured(image, label):
    """Return where an image has the colour of a label, which no other image has."""
    values = image.permute(1, 2, 0).numpy() * 255
    return np.abs(values - COLOURS[label % 4]).max(axis=2) < 95


@pytest.mark.parametrize("changes", [{}, {"degrees": 30}, {"flip": 1.0, "scale": 0.5}])
def test_masks_lie_on_their_colours_in_mosaics(changes):
    dataset = MosaicDataset(Discs(), MosaicOptions(**PLAIN | {"size": 96} | changes))
    found = 0
    for epoch in range(12):
        sample = dataset[SampleKey(epoch % 4, epoch, None, (0, 1, 2, 3))]
        assert sample.counts.tolist() == [len(sample.labels)]
        for label in sample.labels.unique().tolist():
            masks = sample.masks[sample.labels == label].any(dim=0).numpy()
            colour = coloured(sample.images[0], label)
            outline = 4 * np.sqrt(np.pi * masks.sum()) * max(1, len(sample.labels))
            assert (masks != colour).sum() < 0.5 * outline
            found += masks.sum() > 100
    assert found > 15


def test_mosaics_hold_the_image_and_neighbours_alone():
    dataset = MosaicDataset(Discs(), MosaicOptions(**PLAIN | {"scale": 0.5}))
    labels = set()
    for epoch in range(60):
        sample = dataset[SampleKey(0, epoch, None, (1, 3))]
        labels |= set(sample.labels.tolist())
    assert labels == {0, 1, 3}
    alone = dataset[SampleKey(2, 0, None, ())]
    assert set(alone.labels.tolist()) <= {2}


def test_samples_depend_on_seed_epoch_and_index_alone():
    options = MosaicOptions(**ALL)
    first, other = MosaicDataset(Discs(), options), MosaicDataset(Discs(), options)
    keys = [key(index, epoch) for epoch in range(3) for index in range(6)]
    made = [first[k] for k in keys]
    again = [other[k] for k in reversed(keys)][::-1]  # with another history of the cache
    assert all(same(a, b) for a, b in zip(made, again, strict=True))
    assert len({m.images.numpy().tobytes() for m in made}) == len(made)
    assert not same(MosaicDataset(Discs(), options, seed=1)[keys[0]], made[0])


def test_a_batch_at_once_equals_its_samples():
    dataset = MosaicDataset(Discs(), MosaicOptions(**ALL), mask_stride=4)
    keys = [key(index) for index in range(6)]
    (batch,) = dataset.__getitems__(keys)
    assert same(batch, collate_images([dataset[k] for k in keys], 32))
    loader = DataLoader(dataset, batch_sampler=[keys], collate_fn=collate_images)
    assert same(next(iter(loader)), batch)
    assert batch.masks.shape[1:] == (16, 16)


def test_the_last_epochs_are_single_images():
    dataset = MosaicDataset(Discs(), MosaicOptions(**PLAIN | {"scale": 0.5}), close_from=7)
    several = [len(set(dataset[key(3, epoch)].labels.tolist()) - {3}) for epoch in range(7)]
    assert any(several)
    for epoch in (7, 8, 30):
        assert dataset[key(3, epoch)].labels.tolist() == [3]
    whole = MosaicDataset(Discs(), MosaicOptions(**ALL, translate=0.3), close_from=0)
    scales = {whole[key(3, epoch)].images.numpy().tobytes() for epoch in range(4)}
    assert len(scales) == 4  # still scaled, shifted and coloured


def test_the_share_of_mosaics():
    dataset = MosaicDataset(Discs(), MosaicOptions(**PLAIN | {"probability": 0.25}))
    single = MosaicDataset(Discs(), MosaicOptions(**PLAIN | {"probability": 0.0}))
    plain = single[key(0)].images
    share = np.mean([not torch.equal(dataset[key(0, e)].images, plain) for e in range(300)])
    assert 0.17 < share < 0.33  # more than three standard deviations to either side


def test_flips_mirror_the_whole_square():
    plain = MosaicDataset(Discs(), MosaicOptions(**PLAIN))
    for names, axes in (
        (["flip"], [3]),
        (["flip_vertical"], [2]),
        (["flip", "flip_vertical"], [2, 3]),
    ):
        changes = dict.fromkeys(names, 1.0)
        flipped = MosaicDataset(Discs(), MosaicOptions(**PLAIN | changes))
        for epoch in range(3):
            one, two = plain[key(0, epoch)], flipped[key(0, epoch)]
            assert (one.images.flip(axes) - two.images).abs().mean() < 0.02
            assert one.labels.tolist() == two.labels.tolist()
            assert (one.masks.flip([a - 1 for a in axes]) != two.masks).float().mean() < 0.01


def test_sides_drawn_for_a_step():
    dataset = MosaicDataset(Discs(), MosaicOptions(**ALL), largest=96)
    assert dataset.cache.long_side == 96
    for side in (32, 64, 96):
        sample = dataset[key(1, 0, side)]
        assert sample.images.shape == (1, 3, side, side)
        assert sample.sizes.tolist() == [[side, side]]
    mixed = dataset.__getitems__([key(0, 0, 32), key(1, 0, 64)])
    assert [b.images.shape[-1] for b in mixed] == [32, 64]
    with pytest.raises(ValueError, match="mosaic.perspective"):
        MosaicDataset(Discs(), MosaicOptions(size=64, perspective=0.004), largest=96)


def test_copy_paste_brings_objects_but_no_crowds():
    dataset = MosaicDataset(Discs(), MosaicOptions(**PLAIN, probability=0.0, copy_paste=1.0))
    labels = [dataset[SampleKey(4, e, None, (5,))].labels.tolist() for e in range(40)]
    assert {tuple(x) for x in labels} == {(), (5,)}
    crowds = [dataset[SampleKey(4, e, None, (5,))].crowd.any().item() for e in range(40)]
    assert not any(crowds)
    covered = [dataset[SampleKey(5, e, None, (2,))] for e in range(40)]
    pasted = [s for s in covered if 2 in s.labels]
    assert 8 < len(pasted) < 32
    for sample in pasted:
        assert sample.masks[sample.labels == 2].any()
        under = sample.masks[(sample.labels == 5)].any(dim=0)
        assert not (under & sample.masks[sample.labels == 2].any(dim=0)).any()


def is_right(sample, label):
    """Tell whether the disc of a label lies to the right of the middle."""
    left, _, right, _ = sample.boxes[sample.labels == label][0].tolist()
    return left + right > sample.sizes[0, 1].item()


def test_a_donor_is_mirrored_and_scaled_by_itself():
    changes = PLAIN | {"flip": 0.5, "scale": 0.5, "probability": 0.0}
    plain = MosaicDataset(Discs(), MosaicOptions(**changes))
    dataset = MosaicDataset(Discs(), MosaicOptions(**changes, copy_paste=1.0))
    sides, areas = set(), []
    for epoch in range(80):
        key_ = SampleKey(2, epoch, None, (5,))
        sample = dataset[key_]
        if 5 in sample.labels:
            sides.add((is_right(plain[key_], 2), is_right(sample, 5)))  # uncovered in the former
            areas.append(sample.masks[sample.labels == 5].sum().item())
    assert len(sides) == 4
    assert max(areas) > 3 * min(areas)


@pytest.mark.parametrize("kind", ["copy_paste", "mixup"])
def test_colours_change_alike_in_all_that_a_sample_is_made_of(kind):
    changes = {"hsv": (0.1, 0.5, 0.9), "probability": 0.0}
    plain = MosaicDataset(Discs(), MosaicOptions(**PLAIN | changes))
    mixed = MosaicDataset(Discs(), MosaicOptions(**PLAIN | changes | {kind: 1.0}))
    compared, before = 0, MosaicDataset(Discs(), MosaicOptions(**PLAIN, probability=0.0))[key(1)]
    for epoch in range(20):  # images 1 and 5 have discs of one colour and backgrounds of another
        own = plain[SampleKey(1, epoch, None, (5,))]
        both = mixed[SampleKey(1, epoch, None, (5,))]
        assert not torch.equal(own.images, before.images)
        if 5 not in both.labels:
            continue
        disc = both.masks[both.labels == 5][0] & own.masks[0]
        columns = torch.zeros_like(disc)
        columns[:, 12:52] = True
        rest = columns & ~both.masks.any(dim=0) & ~own.masks[0]
        for part in (disc, rest):
            difference = (both.images[0][:, part] - own.images[0][:, part]).abs()
            assert difference.max() < 1.5 / 255
            compared += int(part.sum() > 0)
    assert compared >= 4


def test_narrow_objects_are_dropped():
    cut = {"translate": 1.0, "probability": 0.0}
    loose = MosaicDataset(Discs(), MosaicOptions(**PLAIN | cut))
    strict = MosaicDataset(Discs(), MosaicOptions(**PLAIN | cut | {"min_side": 12.0}))
    seen = set()
    for epoch in range(60):
        one, two = loose[key(0, epoch)], strict[key(0, epoch)]
        wide = (one.boxes[:, 2:] - one.boxes[:, :2]).min(dim=1).values >= 12
        assert torch.equal(two.boxes, one.boxes[wide])
        seen |= set(wide.tolist())
    assert seen == {False, True}


def test_mixup_brings_the_instances_of_both():
    dataset = MosaicDataset(Discs(), MosaicOptions(**PLAIN, probability=0.0, mixup=1.0))
    for epoch in range(5):
        sample = dataset[SampleKey(0, epoch, None, (1,))]
        assert sample.labels.tolist() == [0, 1]
        one, two = sample.masks
        overlap = one & two
        assert overlap.any()
        mean = sample.images[0][:, overlap].mean(dim=1) * 255
        assert torch.allclose(mean, torch.tensor([135.0, 135, 20]), atol=60)


def test_images_without_instances_and_slivers():
    empty = MosaicDataset(Discs(), MosaicOptions(**ALL))[SampleKey(4, 0, None, ())]
    assert empty.boxes.shape == (0, 4)
    assert empty.masks.shape == (0, 64, 64)
    assert empty.labels.dtype == torch.int64
    cut = {"translate": 1.0, "probability": 0.0}
    loose = MosaicDataset(Discs(), MosaicOptions(**PLAIN | cut))
    strict = MosaicDataset(Discs(), MosaicOptions(**PLAIN | cut | {"min_visible": 0.9}))
    pairs = [(loose[key(0, e)], strict[key(0, e)]) for e in range(60)]
    full = pairs[0][0].masks.new_tensor(Discs().read(0).maps.targets().masks).sum()
    seen = {False: 0, True: 0}
    for one, two in pairs:
        kept = [n for n in range(len(one.labels)) if one.masks[n].sum() >= 0.9 * full]
        assert torch.equal(one.masks[kept], two.masks)
        if len(one.labels):
            seen[bool(kept)] += 1
    assert min(seen.values()) > 3


def test_crowds_travel_along():
    dataset = MosaicDataset(Discs(), MosaicOptions(**PLAIN | {"min_visible": 1.0}, probability=0.0))
    sample = dataset[key(5)]
    assert sample.crowd.tolist() == [False, True]
    mosaics = MosaicDataset(Discs(), MosaicOptions(**PLAIN | {"min_visible": 1.0}))
    crowds = [mosaics[SampleKey(5, e, None, (5,))].crowd.sum().item() for e in range(10)]
    assert max(crowds) >= 2


def test_augmentations_follow_and_may_change_the_size():
    crop = Augmentation([{"name": "CenterCrop", "height": 40, "width": 48, "p": 1.0}])
    options = MosaicOptions(**PLAIN | {"size": 96})
    plain, cropped = (
        MosaicDataset(Discs(), options),
        MosaicDataset(Discs(), options, augmentation=crop),
    )
    crowds = 0
    for one, two in ((plain[k], cropped[k]) for k in (key(n, e) for n in (0, 5) for e in range(4))):
        assert torch.equal(two.images, one.images[..., 28:68, 24:72])
        inside = one.masks[:, 28:68, 24:72]
        left = inside.flatten(1).any(dim=1)
        assert torch.equal(two.masks, inside[left])
        assert torch.equal(two.labels, one.labels[left])
        assert torch.equal(two.crowd, one.crowd[left])
        crowds += int(two.crowd.any() and not left.all())
        assert two.sizes.tolist() == [[40, 48]]
    assert crowds
    large = Augmentation([{"name": "RandomCrop", "height": 200, "width": 200}])
    with pytest.raises(ValueError, match="image 0, 96 px high and 96 px wide"):
        MosaicDataset(Discs(), options, augmentation=large)[key(0)]


def test_augmentations_are_drawn_anew_and_keep_the_stride_of_masks():
    crop = Augmentation([{"name": "RandomCrop", "height": 32, "width": 32, "p": 1.0}])
    options = MosaicOptions(**PLAIN, probability=0.0)
    whole = MosaicDataset(Discs(), options)
    whole_image = whole[key(0)].images
    made = {}
    for seed in (0, 1):
        cropped = MosaicDataset(Discs(), options, seed=seed, augmentation=crop, mask_stride=4)
        for epoch in range(6):
            sample = cropped[key(0, epoch)]
            made[seed, epoch] = sample.images.numpy().tobytes()
            (place,) = [
                (y, x)
                for y in range(33)
                for x in range(33)
                if torch.equal(whole_image[..., y : y + 32, x : x + 32], sample.images)
            ] or [None]
            assert place is not None
            top, left = place
            mask = whole[key(0)].masks[0, top : top + 32, left : left + 32]
            if len(sample.masks):
                cells = mask.view(8, 4, 8, 4).sum(dim=(1, 3)) >= 8
                assert torch.equal(sample.masks[0], cells)
    assert len(set(made.values())) > 6


def test_all_neighbours_take_part():
    dataset = MosaicDataset(Discs(), MosaicOptions(**PLAIN | {"scale": 0.5}))
    keys = [SampleKey(4, epoch, None, (0, 1, 2, 3)) for epoch in range(30)]
    assert set(torch.cat([dataset[k].labels for k in keys]).tolist()) == {0, 1, 2, 3}


def test_what_is_too_little_to_be_taught_is_not_pasted_either():
    cut = {"translate": 0.6, "min_visible": 0.9}
    options = MosaicOptions(**PLAIN | cut, probability=0.0, copy_paste=1.0)
    dataset = MosaicDataset(Discs(), options)
    made = [dataset[SampleKey(4, e, None, (5,))] for e in range(40)]
    for sample in made:
        brightest = int((sample.images * 255).round().max())
        assert (brightest == 250) == bool(len(sample.labels))
    assert 3 <= sum(len(sample.labels) for sample in made) < 17
