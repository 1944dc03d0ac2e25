"""Trainings of Mask2Former and of `transformers`' on digit scenes, see `query_models.py --digits`.

Both have the sizes, data, optimizer, schedule and clipping of `configs/quickstart/mask2former.yaml`
and start from the packaged backbone. The number of steps is what fits into the given processor time
on one thread, by the mean of a few steps of each.
"""

from __future__ import annotations

import inspect
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
import yaml
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import evaluate
import train
from datamodules.seg.digit_scenes import DigitScenesDataModule
from evaluation.seg.coco import score_results
from formats.coco.results import load_ground_truth
from formats.files import write_json
from lightning_modules.parameter_groups import parameter_groups
from models.backbones.weights import load_backbone_weights
from models.seg.mask2former import Mask2Former
from optim import schedules
from structures import SegBatch

RECIPE = Path(__file__).resolve().parents[2] / "configs/quickstart/mask2former.yaml"
TRIAL = 40  # steps whose mean time counts, after a few others

Row = dict[str, Any]


def compare_on_digits(folder: Path, minutes: float, sides: Sequence[str]) -> None:
    """Train the sides unless they are trained, and print mask AP, steps and seconds."""
    images, annotations = folder / "scenes/images/test", folder / "scenes/annotations"
    annotations = annotations / "instances_test.json"
    if not annotations.is_file():
        DigitScenesDataModule().write_split("test", folder / "scenes")
    print(f"{'':14s} {'steps':>6s} {'s':>6s} {'mask AP':>8s} {'AP50':>6s}")
    runs = {"ours": train_ours, "transformers": train_theirs}
    for name in sides:
        file = folder / name / "result.json"
        if not file.is_file():
            row = runs[name](file.parent, 60 * minutes, images, annotations)
            write_json(file, row)
        row = json.loads(file.read_text())
        metrics = row["metrics"]
        print(
            f"{name:14s} {row['steps']:6d} {row['seconds']:6.0f} {metrics['segm_map']:8.3f} "
            f"{metrics['segm_map_50']:6.3f}",
            flush=True,
        )


def train_ours(folder: Path, seconds: float, images: Path, annotations: Path) -> Row:
    """Train by the recipe for a time and score the last checkpoint."""
    words = ["fit", "--config", str(RECIPE), "--trainer.max_epochs", "-1"]
    words += ["--trainer.limit_train_batches", "null", "--trainer.limit_val_batches", "0"]
    words += ["--trainer.num_sanity_val_steps", "0", "--checkpoint.monitor", "train/loss"]

    def run(steps: int, place: Path) -> tuple[Path, float]:
        start = time.process_time()
        if train.main([*words, "--runs_dir", str(place), "--trainer.max_steps", str(steps)]):
            raise RuntimeError("the training has failed")
        newest = max(place.glob("*/version_*"), key=lambda one: one.stat().st_mtime)
        return newest / "checkpoints/last.ckpt", time.process_time() - start

    few, more = run(5, folder / "trial")[1], run(5 + TRIAL, folder / "trial")[1]
    steps = int(seconds / ((more - few) / TRIAL))
    checkpoint, spent = run(steps, folder)
    scores = folder / "coco.json"
    words = ["coco", "--ckpt", checkpoint, "--annotations", annotations, "--images", images]
    if evaluate.main([str(word) for word in [*words, "--out", scores]]):
        raise RuntimeError(f"{checkpoint} cannot be scored")
    metrics = json.loads(scores.read_text())["metrics"]
    return {"steps": steps, "seconds": spent, "metrics": metrics}


def train_theirs(folder: Path, seconds: float, images: Path, annotations: Path) -> Row:
    """Train `transformers`' network in the same way and score it."""
    del images
    recipe = yaml.safe_load(RECIPE.read_text())
    data = DigitScenesDataModule(**recipe["data"]["init_args"])
    data.setup("fit")
    torch.manual_seed(0)
    model = peer(recipe, data.num_classes)
    start = time.process_time()
    each = _train(model, recipe, data, 5 + TRIAL)
    steps = int(seconds / each)
    torch.manual_seed(0)
    model = peer(recipe, data.num_classes)
    start = time.process_time()
    _train(model, recipe, data, steps)
    spent = time.process_time() - start
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "weights.pt")
    rows = _predictions(model, recipe, data)
    truth = load_ground_truth(annotations)
    scores = score_results(truth, rows, iou_types=("segm",))
    return {"steps": steps, "seconds": spent, "metrics": dict(scores.metrics)}


def peer(recipe: dict[str, Any], num_classes: int) -> nn.Module:
    """Return `transformers`' network of the sizes of the recipe, from the packaged backbone."""
    import transformers

    defaults = inspect.signature(Mask2Former).parameters
    given = {name: one.default for name, one in defaults.items()}
    given |= recipe["model"]["init_args"]["model"]["init_args"]
    weights = recipe["model"]["init_args"]["loss_weights"]
    backbone = given["backbone"]["init_args"]
    body = transformers.TimmBackboneConfig(
        backbone=backbone["name"],
        use_pretrained_backbone=False,
        out_indices=(1, 2, 3, 4),
        freeze_batch_norm_2d=backbone.get("norm") == "frozen_bn",
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=body,
        feature_size=given["width"],
        mask_feature_size=given["width"],
        hidden_dim=given["width"],
        encoder_feedforward_dim=given["encoder_ffn"],
        encoder_layers=given["encoder_layers"],
        decoder_layers=given["decoder_layers"] + 1,
        dim_feedforward=given["decoder_ffn"],
        num_attention_heads=given["num_heads"],
        num_queries=given["num_queries"],
        train_num_points=given["num_points"],
        class_weight=weights["class"],
        mask_weight=weights["mask"],
        dice_weight=weights["dice"],
        num_labels=num_classes,
    )
    model: Any = transformers.Mask2FormerForUniversalSegmentation(config)
    load_backbone_weights(
        model.model.pixel_level_module.encoder._backbone, backbone["name"], backbone["weights"]
    )
    return model  # type: ignore[no-any-return]


def _train(model: nn.Module, recipe: dict[str, Any], data: Any, steps: int) -> float:
    """Train for some steps; return the mean processor time of the later ones."""
    options = recipe["model"]["init_args"]
    factor = options.get("backbone_lr_mult", 1.0)
    optimizer_args = options["optimizer"]["init_args"]
    groups = parameter_groups(_Named(model))
    for group in groups:
        group["lr"] = optimizer_args["lr"] * (factor if group.pop("backbone") else 1.0)
        del group["factor"]
    optimizer = torch.optim.AdamW(groups, **optimizer_args)
    name = options["lr_scheduler"]["class_path"].rpartition(".")[2]
    schedule = getattr(schedules, name)(optimizer, steps, **options["lr_scheduler"]["init_args"])
    clip = recipe["trainer"].get("gradient_clip_val")
    mean, std = _constants(recipe)
    model.train()
    began = 0.0
    for step, batch in enumerate(itertools.islice(_endless(data), steps)):
        if step == steps - TRIAL:
            began = time.process_time()
        loss = _loss(model, batch, mean, std)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"transformers: step {step} of {steps}, loss {float(loss):.2f}", flush=True)
    return (time.process_time() - began) / TRIAL


class _Named(nn.Module):
    """The network with the names by which parameters are grouped."""

    no_weight_decay = ("*quer*embed*weight", "*queries_features.weight", "*level_embed*")

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.model.pixel_level_module.encoder
        self.rest = model


def _endless(data: DigitScenesDataModule) -> Iterator[SegBatch]:
    loader: Any = data.train_dataloader()
    for epoch in itertools.count():
        loader.batch_sampler.set_epoch(epoch)
        yield from loader


def _loss(model: Any, batch: SegBatch, mean: Any, std: Any) -> Any:
    counts = batch.counts.tolist()
    return model(
        pixel_values=(batch.images - mean) / std,
        mask_labels=[masks.float() for masks in batch.masks.split(counts)],
        class_labels=list(batch.labels.split(counts)),
    ).loss


def _constants(recipe: dict[str, Any]) -> tuple[Any, Any]:
    given = recipe["model"]["init_args"]["model"]["init_args"]
    return tuple(torch.tensor(given[n])[:, None, None] for n in ("image_mean", "image_std"))  # type: ignore[return-value]


@torch.no_grad()
def _predictions(model: Any, recipe: dict[str, Any], data: Any) -> list[Row]:
    from transformers import Mask2FormerImageProcessorPil as Processor

    processor, (mean, std) = Processor(), _constants(recipe)
    model.eval()
    rows = []
    for batch in data.test_dataloader():
        sizes = [tuple(size) for size in batch.original_sizes.tolist()]
        found = processor.post_process_instance_segmentation(
            model(pixel_values=(batch.images - mean) / std),
            threshold=0.0,
            target_sizes=sizes,
            return_binary_maps=True,
        )
        for image, one in zip(batch.image_ids, found, strict=True):
            if not one["segments_info"]:
                continue
            masks = one["segmentation"].numpy().astype(np.uint8).transpose(1, 2, 0)
            codes = coco_mask.encode(np.asfortranarray(masks))
            for info, code in zip(one["segments_info"], codes, strict=True):
                label = data.category_map.ids[info["label_id"]]
                counts = code["counts"].decode()
                rows.append(
                    {
                        "image_id": image,
                        "category_id": label,
                        "score": info["score"],
                        "segmentation": {"size": code["size"], "counts": counts},
                    }
                )
    return rows
