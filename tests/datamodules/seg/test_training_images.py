import hashlib
from collections import Counter

import numpy as np
import pytest

import train
from datamodules.sampling.keys import SampleKey
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.seg.training_images import image_repeats
from datamodules.seg.yolo_txt import YoloTxtDataModule
from formats.yolo.convert import convert

TINY = {"size": 48, "digit_size": (16, 24), "val_scenes": 2, "test_scenes": 1}


@pytest.fixture
def rare(tmp_path, write_coco):
    """A set of 16 images: `common` is in 12, `rare` in the first, two are empty, one a crowd.

    The last has a `rare` without a pixel, which cannot be learnt.
    """
    square = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0]
    images = [{"id": n, "file_name": f"{n}.png", "height": 16, "width": 16} for n in range(1, 17)]
    found = [(n, 1, 0, [square]) for n in range(1, 13)] + [(1, 2, 0, [square])]
    found += [(15, 2, 1, {"size": [16, 16], "counts": [0, 64, 192]})]
    found += [(16, 2, 0, {"size": [16, 16], "counts": [256]})]
    annotations = [
        {
            "id": k + 1,
            "image_id": n,
            "category_id": c,
            "iscrowd": crowd,
            "segmentation": shape,
            "area": 64.0,
            "bbox": [1.0, 1.0, 8.0, 8.0],
        }
        for k, (n, c, crowd, shape) in enumerate(found)
    ]
    categories = [{"id": 1, "name": "common"}, {"id": 2, "name": "rare"}]
    for split in ("train", "val"):
        write_coco(tmp_path, split, images=images, annotations=annotations, categories=categories)
    return tmp_path


def epoch_counts(data, epoch=0):
    sampler = data.train_sampler()
    sampler.set_epoch(epoch)
    return Counter(key.index for batch in sampler for key in batch)


def test_images_of_a_rare_class_are_repeated_in_a_coco_set(rare, caplog):
    data = CocoDataModule(root=rare, batch_size=1, repeat_threshold=0.25)
    with caplog.at_level("INFO"):
        counts = epoch_counts(data)
        assert counts == epoch_counts(data)
    assert caplog.text.count("repeat_threshold") == 1  # told once
    # rare: sqrt(.25 / (1/16)) = 2; neither a crowd nor an object without a pixel counts
    assert counts == Counter({index: 2 if index == 0 else 1 for index in range(16)})
    assert "1 of 2 classes are in fewer than 25 % of the 16 training images" in caplog.text
    assert "an epoch has 17 images; the rarest class, rare, is in 1" in caplog.text
    assert epoch_counts(CocoDataModule(root=rare, batch_size=1)) == Counter(range(16))


def test_shares_are_those_of_the_images_that_are_trained_on(rare):
    kept = {"filter_empty": True, "repeat_threshold": 0.25}
    data = CocoDataModule(root=rare, batch_size=1, **kept)
    draws = [epoch_counts(data, epoch)[0] for epoch in range(200)]
    # 13 images are left (12 and the one without a pixel), so the factor is sqrt(.25 * 13) = 1.80
    assert np.mean(draws) == pytest.approx(1.803 * 13 / 13.803, abs=0.15)


def test_a_yolo_set_is_repeated_as_the_coco_set_it_was_made_from(tmp_path):
    scenes = DigitScenesDataModule(train_scenes=12, **TINY)
    for split in ("train", "val"):
        images, annotations = scenes.write_split(split, tmp_path / "coco")
        convert("coco", "yolo", tmp_path / "yolo", annotations=annotations, images=images)
    sets = (
        scenes,
        CocoDataModule(root=tmp_path / "coco", repeat_threshold=0.4, batch_size=1),
        YoloTxtDataModule(root=tmp_path / "yolo", repeat_threshold=0.4, batch_size=1),
    )
    objects = [data.train_objects() for data in sets]
    for images, labels in objects[1:]:
        pairs = zip(images.tolist(), labels.tolist(), strict=True)
        assert Counter(pairs) == Counter(zip(*map(np.ndarray.tolist, objects[0]), strict=True))
    counts = [epoch_counts(data) for data in sets[1:]]
    assert counts[0] == counts[1]
    assert max(counts[0].values()) > 1


def test_copies_of_an_image_are_augmented_in_different_ways():
    options = {"train_scenes": 4, **TINY}
    flips = [{"name": "Affine", "p": 1.0, "rotate": [-90, 90]}]
    for more in ({"augmentations": flips}, {"mosaic": MosaicOptions(size=64, window=2)}):
        dataset = DigitScenesDataModule(**options, **more).train_dataset()
        digests = [
            hashlib.sha256(dataset[key].images.numpy().tobytes()).hexdigest()
            for key in (
                SampleKey(1, 2),
                SampleKey(1, 2, occurrence=1),
                SampleKey(1, 2, occurrence=2),
                SampleKey(1, 2, occurrence=0),
            )
        ]
        assert len(set(digests)) == 3
        assert digests[0] == digests[3]


@pytest.mark.parametrize("threshold", [0.0, -0.001, 1.5, float("nan")])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(ValueError, match="repeat_threshold is a share"):
        DigitScenesDataModule(repeat_threshold=threshold)


def test_images_without_objects_alone_are_not_repeated():
    nothing = np.zeros(0, dtype=np.int64)
    assert image_repeats((nothing, nothing), np.arange(3), ["a"], 0.5) == [1.0, 1.0, 1.0]


@pytest.mark.slow
def test_a_schedule_knows_the_length_of_the_epoch(rare, tmp_path, capsys):
    """17 images in steps of 2, two epochs: 16 steps, of which the last has the lowest rate."""
    arguments = ["fit", "--config", "configs/quickstart/mask_rcnn.yaml"]
    arguments += ["--config", "configs/_base/data/coco.yaml", "--data.root", str(rare)]
    arguments += ["--data.repeat_threshold", "0.25", "--data.num_workers", "0"]
    arguments += ["--data.train_short_sides", "[32]", "--data.eval_short_side", "32"]
    arguments += ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "1.0"]
    arguments += ["--trainer.limit_val_batches", "1", "--trainer.log_every_n_steps", "1"]
    arguments += ["--runs_dir", str(tmp_path / "runs")]
    for name in ("progress", "curves", "confusion", "gallery"):
        arguments += [f"--callbacks.{name}", "false"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--debug"]
    assert train.main(arguments) == 0
    (metrics,) = (tmp_path / "runs").glob("*/*/metrics.csv")
    header, *rows = (line.split(",") for line in metrics.read_text().splitlines())
    steps = [int(row[header.index("step")]) for row in rows if row[header.index("train/loss")]]
    assert steps == list(range(16))
    rates = [row[header.index("lr-AdamW/head")] for row in rows]
    assert float([rate for rate in rates if rate][-1]) < 3e-5  # 1.5e-3 at its peak
