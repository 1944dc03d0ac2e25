"""Stand-ins for data and modules with known predictions."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from evaluation.mil.collector import BagScores
from evaluation.seg.coco import CocoEvaluator
from structures import BagBatch, CategoryMap, Instances, MILOutput, RLEMasks, SegBatch

CATEGORIES = CategoryMap((5, 9), ("square", "bar"))
NUM_IMAGES = 6


def image(index):
    """Return an image of 24 x 32, resized from 48 x 64 and padded to 32 x 40, with two rectangles.

    In the original frame the square covers columns 8 + 2 index to 24 + 2 index and rows 8 to 24,
    the bar columns 40 to 60 and rows 32 to 40.
    """
    images = torch.ones(1, 3, 32, 40)  # white padding, which must never be used
    images[:, :, :24, :32] = 0.25
    boxes = torch.tensor([[4.0 + index, 4, 12 + index, 12], [20, 16, 30, 20]])
    masks = torch.zeros(2, 32, 40, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
        images[0, :, y1:y2, x1:x2] = 0.75
    return SegBatch(
        images=images,
        sizes=torch.tensor([[24, 32]]),
        boxes=boxes,
        labels=torch.tensor([0, 1]),
        masks=masks,
        counts=torch.tensor([2]),
        crowd=torch.zeros(2, dtype=torch.bool),
        index=torch.tensor([index]),
        original_sizes=torch.tensor([[48, 64]]),
        image_ids=(100 + index,),
    )


def join(batches):
    """Join batches of one padded size into one batch."""
    tensors = {
        field.name: torch.cat([getattr(b, field.name) for b in batches])
        for field in dataclasses.fields(SegBatch)
        if isinstance(getattr(batches[0], field.name), torch.Tensor)
    }
    return SegBatch(**tensors, image_ids=tuple(i for b in batches for i in b.image_ids))


def found(index):
    """Return predictions in the original frame.

    The square is moved by 4 columns, the bar is exact, and one false detection has a low score.
    """
    size = (48, 64)
    rows = [(12 + 2 * index, 8, 28 + 2 * index, 24), (40, 32, 60, 40), (0, 40, 8, 48)]
    dense = np.zeros((3, *size), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(dense, rows, strict=True):
        mask[y1:y2, x1:x2] = True
    return Instances(
        boxes=torch.tensor(rows, dtype=torch.float32),
        scores=torch.tensor([0.9, 0.8, 0.3]),
        labels=torch.tensor([0, 1, 1]),
        size=size,
        masks=RLEMasks.from_dense(dense),
    )


def ground_truth():
    """Return the ground truth of all images as a COCO dictionary."""
    annotations = []
    for index in range(NUM_IMAGES):
        boxes = [(8 + 2 * index, 8, 16, 16), (40, 32, 20, 8)]
        for label, (x, y, w, h) in enumerate(boxes):
            mask = np.zeros((1, 48, 64), dtype=bool)
            mask[0, y : y + h, x : x + w] = True
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + index,
                    "category_id": CATEGORIES.ids[label],
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": RLEMasks.from_dense(mask).to_coco()[0],
                }
            )
    images = [{"id": 100 + i, "height": 48, "width": 64} for i in range(NUM_IMAGES)]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES.to_coco()}


class SegModule(pl.LightningModule):
    """Module that predicts `found` and scores it like SegmentationModule."""

    def __init__(self, losses=(1.0,)):
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.category_map = CATEGORIES
        self.scores = None
        self.losses = losses

    def training_step(self, batch, batch_idx):
        value = self.losses[self.global_step % len(self.losses)]
        return self.model.weight.sum() * 0 + value

    def validation_step(self, batch, batch_idx):
        predictions = [found(i) for i in batch.index.tolist()]
        for image_id, instances in zip(batch.image_ids, predictions, strict=True):
            self.evaluator.add(image_id, instances)
        return predictions

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return [found(i) for i in batch.index.tolist()]

    def on_validation_epoch_start(self):
        self.scores, self.evaluator = None, CocoEvaluator(CATEGORIES)

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.scores = self.evaluator.compute(ground_truth())
            self.log("val/segm_map", self.scores.metrics["segm_map"])

    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self):
        slow = {"params": [self.model.bias], "lr": 0.0125}
        return torch.optim.SGD([{"params": [self.model.weight]}, slow], lr=0.125)


def bag(index, sizes=(3, 2, 4, 2)):
    """Return bag ``index`` of 2 x 2 px instances; if it is odd, its last instance is a witness."""
    count = sizes[index % len(sizes)]
    features = torch.arange(count * 4, dtype=torch.float32).reshape(count, 4) / 16
    witness = torch.zeros(count, dtype=torch.int64)
    witness[-1] = index % 2
    return BagBatch(
        features=features,
        offsets=torch.tensor([0, count]),
        labels=torch.tensor([index % 2]),
        index=torch.tensor([index]),
        instance_labels=witness,
        bag_ids=(f"case {index}",),
    )


class BagModule(pl.LightningModule):
    """Binary module with attention proportional to 1, 2, 3, ... and logit = bag number - 2."""

    task = "binary"
    class_names = ("absent", "present")
    threshold = 0.5

    def __init__(self):
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.bag_scores = None

    def forward(self, bags):
        parts = [torch.arange(1.0, n + 1) for n in bags.sizes().tolist()]
        return MILOutput(
            logits=(bags.index - 2).float()[:, None],
            attention=torch.cat([p / p.sum() for p in parts]),
        )

    def training_step(self, bags, batch_idx):
        return self.model.weight.sum() * 0

    def validation_step(self, bags, batch_idx):
        self.rows += [
            (int(i), name, int(y))
            for i, name, y in zip(bags.index, bags.bag_ids, bags.labels, strict=True)
        ]
        return self(bags)

    test_step = validation_step

    def predict_step(self, bags, batch_idx):
        return self(bags)

    def on_validation_epoch_start(self):
        self.bag_scores, self.rows = None, []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self):
        numbers, names, labels = zip(*sorted(set(self.rows)), strict=True)
        logits = torch.tensor([n - 2.0 for n in numbers])
        self.bag_scores = BagScores(
            bag_ids=names,
            index=np.array(numbers),
            labels=np.array(labels),
            probabilities=logits.sigmoid().double().numpy(),
        )

    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.125)


def loader(items):
    """Return a loader that yields the batches unchanged."""
    return DataLoader(items, batch_size=None)


def images(batch_size=2):
    """Return a loader of all images."""
    singles = [image(i) for i in range(NUM_IMAGES)]
    return loader([join(singles[i : i + batch_size]) for i in range(0, len(singles), batch_size)])


def bags(numbers=range(8), batch_size=3):
    """Return a loader of bags."""
    singles = [bag(i) for i in numbers]
    return loader(
        [BagBatch.collate(singles[i : i + batch_size]) for i in range(0, len(singles), batch_size)]
    )


@pytest.fixture
def stand_in():
    """Return the stand-ins of this module by name."""
    return SimpleNamespace(
        categories=CATEGORIES,
        image=image,
        join=join,
        found=found,
        ground_truth=ground_truth,
        SegModule=SegModule,
        bag=bag,
        BagModule=BagModule,
        images=images,
        bags=bags,
    )


@pytest.fixture
def make_trainer(tmp_path):
    """Return a function that makes a small trainer whose run folder is ``tmp_path / "run"``."""

    def make(callbacks, **options):
        given = {
            "max_epochs": 1,
            "accelerator": "cpu",
            "devices": 1,
            "logger": CSVLogger(str(tmp_path), name="", version="run"),
            "enable_progress_bar": any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 1,
            "log_every_n_steps": 1,
        }
        return pl.Trainer(callbacks=callbacks, **(given | options))

    return make
