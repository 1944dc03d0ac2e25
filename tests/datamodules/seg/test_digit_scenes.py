import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.digits import source_digits
from datamodules.sampling.keys import SampleKey, keyed_generator
from datamodules.scene_drawing import (
    SceneStyle,
    _glyphs,
    _own,
    _place_digit,
    draw_outlines,
    draw_scene,
)
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.digit_scenes import DigitScenesDataModule
from structures import RLEMasks


@pytest.fixture(scope="module")
def scenes():
    return DigitScenesDataModule()


def fingerprint(source, indices):
    digest = hashlib.sha256()
    for index in indices:
        scene = source.scene(index)
        for part in (scene.image, scene.owner, scene.labels.astype("<i8")):
            digest.update(part.tobytes())
    return digest.hexdigest()[:16]


def test_defaults_are_the_frozen_ones(scenes):
    assert [len(scenes.source(split)) for split in ("train", "val", "test")] == [5000, 100, 200]
    style = scenes.source("train").style
    assert style == SceneStyle(128, (2, 6), (24, 56), 20.0, ("smooth",), False)
    assert scenes.class_names == [str(digit) for digit in range(10)]
    assert scenes.category_map.ids == tuple(range(1, 11))
    assert scenes.num_classes == 10


def test_scenes_are_frozen(scenes):
    found = {s: fingerprint(scenes.source(s), range(8)) for s in ("train", "val", "test")}
    assert found == {
        "train": "cd3f2786fd20d91f",
        "val": "1f13a9d828535cb4",
        "test": "c0da1571ee23ddc2",
    }


def test_a_scene_depends_on_split_seed_and_index_alone(scenes):
    fewer = DigitScenesDataModule(train_scenes=6, seed=9, batch_size=3)
    assert fingerprint(fewer.source("train"), [5]) == fingerprint(scenes.source("train"), [5])
    other = DigitScenesDataModule(train_scenes=6, scene_seed=1)
    prints = {
        fingerprint(scenes.source("train"), [5]),
        fingerprint(scenes.source("train"), [4]),
        fingerprint(scenes.source("val"), [5]),
        fingerprint(other.source("train"), [5]),
    }
    assert len(prints) == 4


def test_splits_draw_their_own_digits_only(monkeypatch):
    asked = []
    import datamodules.scene_drawing as drawing

    monkeypatch.setattr(
        drawing, "source_digits", lambda split: asked.append(split) or source_digits(split)
    )
    drawing._glyphs.cache_clear()
    module = DigitScenesDataModule()
    for split in ("train", "val", "test"):
        asked.clear()
        scene = module.source(split).scene(0)
        assert set(asked) == {split}
        assert scene.labels.max() <= 9


def test_a_label_belongs_to_the_digit_that_is_drawn():
    # one upright digit of the largest size on a plain background: shrunk to 8 x 8 its ink must
    # look like one of the source digits of its class more than like any other class
    style = SceneStyle(
        size=64, digits=(1, 1), digit_size=(64, 64), rotation=0.0, textures=("plain",)
    )
    rows = np.arange(400)
    digits = source_digits("test")
    hits = 0
    for key in range(20):
        scene = draw_scene(keyed_generator(7, key), "test", style, rows)
        ink = (scene.owner == 1).reshape(8, 8, 8, 8).mean(axis=(1, 3)) * 16
        nearest = int(((digits.images - ink) ** 2).sum(axis=(1, 2)).argmin())
        hits += digits.labels[nearest] == scene.labels[0]
    assert hits >= 19


def test_masks_partition_the_ink(scenes):
    source = scenes.source("train")
    for index in range(30):
        image = source.read(index)
        masks = image.maps.targets().masks
        assert masks.sum(axis=0).max() <= 1
        assert masks.sum(axis=(1, 2)).min() >= 30
        assert len(image.labels) == len(masks)


def test_digits_of_which_little_is_seen_are_not_annotated():
    source = DigitScenesDataModule(digits=(25, 25), train_scenes=3).source("train")
    slivers = 0
    for index in range(3):
        scene, image = source.scene(index), source.read(index)
        visible = np.bincount(scene.owner.ravel(), minlength=26)[1:]
        kept = np.flatnonzero(visible >= 30)
        slivers += int(((visible > 0) & (visible < 30)).sum())
        assert np.array_equal(image.labels, scene.labels[kept])
        masks = image.maps.targets().masks
        assert np.array_equal(masks, scene.owner == kept[:, None, None] + 1)
    assert slivers > 0


def test_later_digits_lie_on_top():
    style = SceneStyle(size=64, digit_size=(40, 50))
    glyphs = _glyphs("train")
    lost = 0
    for key in range(10):
        owner = np.zeros((64, 64), dtype=np.uint8)
        expected = owner.copy()
        for number in (1, 2, 3):
            alone = np.zeros_like(owner)
            shape = _place_digit(keyed_generator(6, key, number), glyphs[key * 3 + number], style)
            _own(shape, alone, 1)
            _own(shape, owner, number)
            lost += int(((expected > 0) & (alone > 0)).sum())
            expected[alone > 0] = number
        assert np.array_equal(owner, expected)
    assert lost > 100


def test_digits_stand_out_and_have_the_size_asked_for():
    rows = np.arange(1200)
    for size in (24, 56):
        style = SceneStyle(digits=(1, 1), digit_size=(size, size), textures=("plain",))
        heights = []
        for key in range(15):
            scene = draw_scene(keyed_generator(5, key), "train", style, rows)
            ink = scene.owner == 1
            contrast = scene.image[ink].mean(axis=0) - scene.image[~ink].mean(axis=0)
            assert np.abs(contrast).mean() > 0.15 * 255
            touched = np.flatnonzero(ink.any(axis=1))
            heights.append(touched[-1] - touched[0] + 1)
        assert 0.8 * size < np.mean(heights) <= 1.1 * size


def test_dark_scenes_are_the_same_scenes_with_less_light():
    bright = DigitScenesDataModule(train_scenes=4).source("train")
    dark = DigitScenesDataModule(train_scenes=4, dark=True).source("train")
    for index in range(4):
        one, two = bright.scene(index), dark.scene(index)
        assert np.array_equal(one.owner, two.owner)
        light = [(scene.image / 255.0) ** 2.2 for scene in (one, two)]
        assert 0.015 < light[1].mean() / light[0].mean() < 0.12


def test_novel_digits_are_unlabelled_or_absent():
    shared = {"train_scenes": 40, "classes": [1, 3, 5, 7], "known": [4, 8]}
    seen = DigitScenesDataModule(**shared)
    absent = DigitScenesDataModule(**shared, unknown="absent")
    assert seen.class_names == ["3", "7"]
    assert seen.category_map.ids == (4, 8)
    drawn, labelled = set(), set()
    for index in range(40):
        scene, image = seen.source("train").scene(index), seen.source("train").read(index)
        drawn |= set(scene.labels.tolist())
        labelled |= set(image.labels.tolist())
        kept = [k for k, d in enumerate(scene.labels) if d in (3, 7)]
        assert set(np.array([3, 7])[image.labels]) <= set(scene.labels[kept])
        masks = image.maps.targets().masks
        visible = np.isin(scene.owner, np.array(kept) + 1).sum()
        assert visible - 29 * len(kept) <= masks.sum() <= visible
    assert drawn == {1, 3, 5, 7}
    assert labelled == {0, 1}
    assert set(np.concatenate([absent.source("train").scene(i).labels for i in range(40)])) == {
        3,
        7,
    }
    truth = seen.labelled_truth("val")
    assert {a["category_id"] for a in truth["annotations"]} == {4, 8}
    assert truth["categories"] == [{"id": 4, "name": "3"}, {"id": 8, "name": "7"}]


def test_outlines_are_those_of_the_painted_scenes():
    source = DigitScenesDataModule(textures=["plain", "smooth", "stripes"], dark=True).source("val")
    for index in range(30):
        scene = source.scene(index)
        owner, labels = draw_outlines(*source._drawing(index))
        assert np.array_equal(owner, scene.owner)
        assert np.array_equal(labels, scene.labels)


def test_ground_truth_holds_the_masks_of_the_batches():
    module = DigitScenesDataModule(val_scenes=6, eval_batch_size=4)
    truth = module.ground_truth("val")
    assert [i["id"] for i in truth["images"]] == [1, 2, 3, 4, 5, 6]
    assert truth["images"] == module.image_records("val")
    assert [a["id"] for a in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    rows = iter(truth["annotations"])
    for batch in module.val_dataloader():
        for image_id, targets in zip(batch.image_ids, batch.targets(), strict=True):
            for box, label, mask in zip(targets.boxes, targets.labels, targets.masks, strict=True):
                row = next(rows)
                dense = RLEMasks.from_coco([row["segmentation"]], (128, 128)).decode()[0]
                x, y, width, height = row["bbox"]
                assert row["image_id"] == image_id
                assert row["category_id"] == int(label) + 1
                assert torch.equal(torch.from_numpy(dense.copy()), mask)
                assert row["area"] == mask.sum()
                assert [x, y, x + width, y + height] == box.tolist()
    assert next(rows, None) is None


def test_written_split_gives_the_same_batches_from_files(tmp_path):
    shared = {
        "batch_size": 4,
        "augmentations": [{"name": "HorizontalFlip"}, {"name": "Affine", "rotate": [-20, 20]}],
        "train_short_sides": [96, 160],
        "mask_stride": 4,
    }
    drawn = DigitScenesDataModule(train_scenes=12, val_scenes=5, test_scenes=5, **shared)
    for split in ("train", "val", "test"):
        images, annotations = drawn.write_split(split, tmp_path)
        assert images == tmp_path / "images" / split
        assert annotations == tmp_path / "annotations" / f"instances_{split}.json"
    files = CocoDataModule(root=tmp_path, **shared)
    used = {a["category_id"] for a in drawn.ground_truth("train")["annotations"]}
    assert len(used) == 10
    assert files.category_map == drawn.category_map
    for split in ("train", "val", "test"):
        assert files.ground_truth(split) == drawn.ground_truth(split)
    loaders = [(m.train_dataloader(), m.val_dataloader()) for m in (drawn, files)]
    for one, two in zip(*loaders, strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.image_ids == b.image_ids
            for name in ("images", "sizes", "boxes", "labels", "masks", "counts", "crowd", "index"):
                assert torch.equal(getattr(a, name), getattr(b, name)), name
            assert torch.equal(a.original_sizes, b.original_sizes)


def test_files_are_lossless(tmp_path):
    module = DigitScenesDataModule(test_scenes=2)
    images, _ = module.write_split("predict", tmp_path)
    for index in range(2):
        name = module.image_records("predict")[index]["file_name"]
        written = np.asarray(Image.open(images / name))
        assert np.array_equal(written, module.source("test").scene(index).image)


def test_sample_is_the_scene_in_unit_range(scenes):
    sample = scenes.eval_dataset("val")[SampleKey(3)]
    image = scenes.source("val").scene(3).image
    expected = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)) / 255
    assert torch.equal(sample.images[0], expected)
    assert sample.image_ids == (4,)
    assert sample.original_sizes.tolist() == [[128, 128]]


def test_number_of_annotated_digits(scenes):
    few = DigitScenesDataModule(val_scenes=5).source("val")
    assert few.counts().tolist() == [len(few.read(i).labels) for i in range(5)]
    assert few.sizes().tolist() == [[128, 128]] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": [3, 12]}, "classes must be digits"),
        ({"classes": []}, "classes must be digits"),
        ({"classes": [1, 2], "known": [3, 4]}, "category id 4 is not in the digit scenes"),
        ({"digits": (3, 2)}, "digits must be an increasing range"),
        ({"digit_size": (24, 300)}, "do not fit"),
        ({"digits": (2, 300)}, "at most 255"),
        ({"textures": ["paper"]}, "textures"),
        ({"val_scenes": 0}, "must be positive"),
        ({"scale": 1000}, r"scale is a factor in \(0, 16\], got 1000"),
    ],
)
def test_mistakes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DigitScenesDataModule(**arguments)


def test_no_such_scene(scenes):
    with pytest.raises(IndexError, match="scene 100 does not exist; there are 100"):
        scenes.source("val").scene(100)
