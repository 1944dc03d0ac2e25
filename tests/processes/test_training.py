"""A few steps of whole training on W processes are those of one with the larger batch."""

import dataclasses

import pytest
import pytorch_lightning as pl
import torch

from datamodules.mil.base import BagDataset
from datamodules.mil.digit_bags import DigitBagsDataModule
from datamodules.mil.samplers import TokenBudgetBatchSampler, shuffled
from datamodules.seg.digit_scenes import DigitScenesDataModule
from datamodules.transforms.raw.low_light import LowLightOptions
from lightning_modules.low_light import LowLightModule
from lightning_modules.mil import MILModule
from lightning_modules.segmentation import SegmentationModule
from models.backbones.low_light import LowPassOptions
from models.backbones.timm_fpn import TimmFPN
from models.mil.abmil import ABMIL
from models.seg.mask_rcnn import BoxHeadOptions, MaskHeadOptions, MaskRCNN, RPNOptions
from structures import BagBatch

GLOBAL_BATCH = 6


class DoubleSegmentation(SegmentationModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return dataclasses.replace(batch, images=batch.images.double(), boxes=batch.boxes.double())


class DoubleMIL(MILModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return dataclasses.replace(batch, features=batch.features.double())


def train(module, data, world, steps=3):
    """Fit, and return what was logged for each step and the weights at the end."""
    logged = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            logged.append({n: v.item() for n, v in trainer.callback_metrics.items()})

    trainer = pl.Trainer(
        accelerator="cpu",
        strategy="ddp" if world > 1 else "auto",
        devices=world,
        max_steps=steps,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[Keep()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module.double()
    trainer.fit(module, datamodule=data)
    assert len(logged) == steps
    return logged, {n: v.clone() for n, v in module.state_dict().items()}


def assert_same_course(alone, ranks, start):
    logged, weights = alone
    moved = [n for n, v in weights.items() if not torch.equal(v, start[n])]
    assert len(moved) > 4
    for losses, state in ranks:
        for mine, wanted in zip(losses, logged, strict=True):
            assert mine == pytest.approx(wanted, rel=1e-6)
        for name, value in weights.items():
            change = (value - start[name]).norm()
            assert (state[name] - value).norm() <= 1e-6 * change + 1e-12, name


@pytest.fixture(scope="module")
def trained(processes):
    """Return a function that trains on W processes and, once for all W, on one."""
    done = {}

    def both(world, function):
        if function in done:
            return done[function], processes(world, function)
        done[function], ranks = processes.beside_one(world, function)
        return done[function], ranks

    return both


def mask_rcnn(**options):
    torch.manual_seed(0)
    return MaskRCNN(
        10,
        TimmFPN("resnet10t", fpn_width=16, norm="frozen_bn", strides=(4, 8), **options),
        rpn=RPNOptions(
            anchor_sizes=(24, 40, 56),
            pre_nms_train=60,
            post_nms_train=40,
            batch_size_per_image=32,
        ),
        box=BoxHeadOptions(width=16, batch_size_per_image=24, sampling_ratio=1),
        mask=MaskHeadOptions(width=8, num_convs=1, max_rois_per_image=3),
    )


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def segmentation_module():
    return DoubleSegmentation(mask_rcnn(), momentum)


def train_on_scenes(rank, world):
    data = DigitScenesDataModule(
        train_scenes=20, size=64, digits=(1, 3), batch_size=GLOBAL_BATCH // world
    )
    return train(segmentation_module(), data, world)


@pytest.mark.slow
def test_segmentation(trained, world):
    start = segmentation_module().double().state_dict()
    assert_same_course(*trained(world, train_on_scenes), start)


class DarkScenes(DigitScenesDataModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        batch = super().on_after_batch_transfer(batch, dataloader_idx)
        names = ("images", "clean_images", "boxes")
        return dataclasses.replace(batch, **{n: getattr(batch, n).double() for n in names})


def low_light_module():
    return LowLightModule(mask_rcnn(low_pass=LowPassOptions()), momentum)


def train_in_the_dark(rank, world):
    data = DarkScenes(
        train_scenes=20,
        size=64,
        digits=(1, 3),
        batch_size=GLOBAL_BATCH // world,
        low_light=LowLightOptions(clean=True),
    )
    return train(low_light_module(), data, world)


def test_two_views(trained, world):
    alone, ranks = trained(world, train_in_the_dark)
    assert {"train/loss_dsl", "train/dsl_clamped", "train/loss_mask"} <= alone[0][0].keys()
    assert_same_course(alone, ranks, low_light_module().double().state_dict())


def mil_module():
    torch.manual_seed(0)
    model = ABMIL(64, 2, "binary", hidden_sizes=(16,), gated=True, attention_dim=8)
    return DoubleMIL(model, lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.01))


def train_on_bags(rank, world):
    data = DigitBagsDataModule(train_bags=20, batch_size=GLOBAL_BATCH // world)
    return train(mil_module(), data, world)


def test_bags(trained, world):
    start = mil_module().double().state_dict()
    assert_same_course(*trained(world, train_on_bags), start)


class JoinedBatches(torch.utils.data.Sampler):
    """On one process: what W processes take in one step."""

    def __init__(self, batches, world):
        self.batches, self.world = batches, world

    def __iter__(self):
        found = list(self.batches)
        for start in range(0, len(found) - self.world + 1, self.world):
            yield [key for batch in found[start : start + self.world] for key in batch]


class BudgetBags(DigitBagsDataModule):
    """Digit bags of very unequal sizes in batches of about equally many instances."""

    def __init__(self, world, joined):
        super().__init__(train_bags=60, mean_length=12, std_length=8)
        self.world, self.joined = world, joined

    def train_dataloader(self):
        bags = self.source("train")
        sizes = bags.sizes().numpy()
        numbers = range(len(sizes))
        batches = TokenBudgetBatchSampler(numbers, sizes, 50, 9, draw=shuffled(len(sizes)))
        counts = {len(batch) for batch in batches}
        assert len(counts) > 1, "the case is about unequal numbers of bags"
        sampler = JoinedBatches(batches, self.joined) if self.world == 1 else batches
        return torch.utils.data.DataLoader(
            BagDataset(bags), batch_sampler=sampler, collate_fn=BagBatch.collate
        )


def train_on_a_budget(rank, world, joined):
    return train(mil_module(), BudgetBags(world, joined), world)


def test_bags_on_a_token_budget(processes, world):
    start = mil_module().double().state_dict()
    results = processes.beside_one(world, train_on_a_budget, joined=world)
    assert_same_course(*results, start)
