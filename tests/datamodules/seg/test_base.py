import hashlib
import itertools
import pickle

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser

from datamodules.sampling.keys import SampleKey
from datamodules.seg.base import SegDataModule
from datamodules.seg.coco import CocoDataModule
from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.seg.mosaic_options import MosaicOptions
from datamodules.transforms.scale_jitter import ScaleJitter
from structures import SegBatch

SMALL = {"size": 48, "digit_size": (16, 24), "train_scenes": 8, "val_scenes": 5, "test_scenes": 3}
AUGMENTATIONS = [
    {"name": "HorizontalFlip", "p": 0.5},
    {"name": "Affine", "p": 0.8, "rotate": [-30, 30]},
    {"name": "RandomBrightnessContrast", "p": 0.8},
]


def digest(batch):
    parts = (batch.images, batch.boxes, batch.labels, batch.masks)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


class Recorder(pl.LightningModule):
    """Keeps what it is fed."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []
        self.evaluated = []

    def training_step(self, batch, batch_idx):
        assert isinstance(batch, SegBatch)
        self.seen.append((self.current_epoch, batch.index.tolist(), digest(batch)))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.evaluated += batch.image_ids

    def test_step(self, batch, batch_idx):
        self.evaluated += batch.image_ids

    def predict_step(self, batch, batch_idx):
        return list(batch.image_ids)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **arguments):
    return pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **arguments,
    )


def fit(tmp_path, workers):
    data = DigitScenesDataModule(
        **SMALL,
        batch_size=2,
        eval_batch_size=2,
        num_workers=workers,
        augmentations=AUGMENTATIONS,
        train_short_sides=[32, 64],
    )
    module = Recorder()
    trainer(tmp_path, max_epochs=3, num_sanity_val_steps=0).fit(module, datamodule=data)
    return module


@pytest.fixture(scope="module")
def without_workers(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("fit"), 0)


def test_every_epoch_is_another_one(without_workers):
    epochs = {e: [s[1:] for s in without_workers.seen if s[0] == e] for e in range(3)}
    assert [len(steps) for steps in epochs.values()] == [4, 4, 4]
    assert len({s[2] for s in without_workers.seen}) == 12
    orders = [[index for members, _ in steps for index in members] for steps in epochs.values()]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert without_workers.evaluated == [1, 2, 3, 4, 5] * 3


def test_epochs_depend_on_the_seed_key_alone(without_workers):
    data = DigitScenesDataModule(
        **SMALL, batch_size=2, augmentations=AUGMENTATIONS, train_short_sides=[32, 64]
    )
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(2)
    assert [digest(b) for b in loader] == [s[2] for s in without_workers.seen if s[0] == 2]


def test_samples_do_not_depend_on_the_number_of_workers(without_workers, tmp_path):
    assert fit(tmp_path, 2).seen == without_workers.seen


def test_test_and_predict_give_every_image_once(tmp_path, recwarn):
    data = DigitScenesDataModule(**SMALL, eval_batch_size=2)
    module = Recorder()
    trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert module.evaluated == [1, 2, 3]
    assert trainer(tmp_path).predict(module, datamodule=data) == [[1, 2], [3]]
    assert not [w for w in recwarn if "batch sampler" in str(w.message)]


def test_one_size_a_batch_in_training_and_the_fixed_one_in_evaluation():
    data = DigitScenesDataModule(**SMALL, train_short_sides=[32, 64], eval_short_side=96)
    assert {batch.images.shape[-1] for batch in data.train_dataloader()} <= {32, 64}
    assert next(iter(data.val_dataloader())).images.shape == (1, 3, 96, 96)
    assert next(iter(data.val_dataloader())).original_sizes.tolist() == [[48, 48]]
    scaled = DigitScenesDataModule(**SMALL, scale=1.5, size_multiple=1)
    assert next(iter(scaled.train_dataloader())).images.shape == (2, 3, 72, 72)
    padded = DigitScenesDataModule(**SMALL)
    assert next(iter(padded.train_dataloader())).images.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("grouped", [True, False])
def test_upright_and_wide_images_go_apart(tmp_path, write_coco, grouped):
    images = [
        {"id": n, "file_name": f"{n}.png", "height": h, "width": w}
        for n, (h, w) in enumerate([(8, 16), (16, 8)] * 8)
    ]
    thing = {"id": 1, "image_id": 0, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]}
    for split in ("train", "val"):
        write_coco(
            tmp_path,
            split,
            images=images,
            annotations=[thing],
            categories=[{"id": 1, "name": "thing"}],
        )
    data = CocoDataModule(root=tmp_path, batch_size=2, group_by_aspect=grouped, size_multiple=1)
    shapes = {tuple(batch.images.shape[2:]) for batch in data.train_dataloader()}
    assert shapes == ({(8, 16), (16, 8)} if grouped else shapes | {(16, 16)})


def test_evaluation_arguments_reproduce_the_preprocessing(tmp_path):
    data = DigitScenesDataModule(
        **SMALL, eval_batch_size=3, eval_short_side=80, mask_stride=4, size_multiple=16
    )
    data.write_split("val", tmp_path)
    files = CocoDataModule(
        val_images=tmp_path / "images" / "val",
        val_annotations=tmp_path / "annotations" / "instances_val.json",
        category_map=data.category_map.to_dict(),
        **data.evaluation_arguments(),
    )
    pairs = zip(data.val_dataloader(), files.val_dataloader(), strict=True)
    assert all(digest(one) == digest(two) for one, two in pairs)


def test_empty_images_are_kept_unless_told_otherwise(tmp_path, write_coco, small_coco):
    for split in ("train", "val"):
        write_coco(tmp_path, split, **small_coco)
    every = CocoDataModule(root=tmp_path, batch_size=1)
    # by ascending id: 3 (one object), 7 (an object and a crowd), 11 (nothing)
    assert sorted(b.index.item() for b in every.train_dataloader()) == [0, 1, 2]
    full = CocoDataModule(root=tmp_path, batch_size=1, filter_empty=True)
    assert sorted(b.index.item() for b in full.train_dataloader()) == [0, 1]
    assert [b.index.item() for b in full.val_dataloader()] == [0, 1, 2]
    only_crowd = CocoDataModule(
        root=tmp_path, batch_size=1, filter_empty=True, categories=["apple"]
    )
    assert [b.index.item() for b in only_crowd.train_dataloader()] == [0]


def test_overlays_can_state_the_shared_arguments_for_any_member():
    parser = ArgumentParser()
    parser.add_subclass_arguments(SegDataModule, "data")
    arguments = ["--data=DigitScenesDataModule", "--data.batch_size=7", "--data.size=64"]
    arguments += ["--data.digit_size=[16,24]", "--data.digits=[1,2]"]
    arguments += ['--data.augmentations=[{"name": "HorizontalFlip", "p": 0.5}]']
    data = parser.instantiate_classes(parser.parse_args(arguments)).data
    assert data.batch_size == 7
    assert data.augmentations == [{"name": "HorizontalFlip", "p": 0.5}]
    assert data.source("train").style.digits == (1, 2)


def test_wrong_augmentation_stops_the_run_before_it_starts(tmp_path):
    data = DigitScenesDataModule(**SMALL, augmentations=[{"name": "Flipp"}])
    module = Recorder()
    with pytest.raises(ValueError, match="Flipp"):
        trainer(tmp_path, max_epochs=1).fit(module, datamodule=data)
    assert module.evaluated == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 0},
        {"eval_batch_size": 0},
        {"eval_short_side": -1},
        {"max_long_side": 0},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"mask_stride": 0},
        {"size_multiple": 0},
        {"train_short_sides": [64, 0]},
        {"num_workers": -1},
        {"seed": -1},
    ],
)
def test_mistakes_name_the_argument(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        DigitScenesDataModule(**arguments)


def test_large_scale_jitter_trains_on_squares_and_leaves_evaluation_alone():
    data = DigitScenesDataModule(**SMALL, batch_size=2, scale_jitter=ScaleJitter(96, (0.2, 2.0)))
    batches = list(itertools.islice(data.train_dataloader(), 8))
    assert {tuple(batch.images.shape) for batch in batches} == {(2, 3, 96, 96)}
    sizes = torch.cat([batch.sizes for batch in batches])
    assert sizes.min() < 60 and sizes.max() == 96
    for batch in batches:
        assert bool((batch.boxes[:, 2:] > batch.boxes[:, :2]).all())
    assert next(iter(data.val_dataloader())).images.shape[-2:] == (64, 64)
    again = next(iter(data.train_dataloader()))
    assert torch.equal(again.images, batches[0].images)  # a sample depends on its key alone


@pytest.mark.parametrize("other", [{"mosaic": MosaicOptions()}, {"train_short_sides": [64]}])
def test_large_scale_jitter_takes_the_place_of_other_sizes(other):
    with pytest.raises(ValueError, match="scale_jitter takes the place"):
        DigitScenesDataModule(scale_jitter=ScaleJitter(), **other)


def test_datasets_travel_to_spawned_workers():
    data = DigitScenesDataModule(**SMALL, augmentations=AUGMENTATIONS)
    dataset = data.train_dataset()
    copy = pickle.loads(pickle.dumps(dataset))
    assert digest(copy[SampleKey(2, 5, 40)]) == digest(dataset[SampleKey(2, 5, 40)])


def test_dataset_items_do_not_remember_each_other():
    data = DigitScenesDataModule(**SMALL, augmentations=AUGMENTATIONS)
    dataset = data.train_dataset()
    first = dataset[SampleKey(3, 1)]
    for index in range(5):
        dataset[SampleKey(index, 0)]
    assert digest(dataset[SampleKey(3, 1)]) == digest(first)
