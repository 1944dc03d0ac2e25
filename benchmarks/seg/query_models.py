"""Mask2Former against the implementation of `transformers`: speed, memory and digit scenes.

Run `python benchmarks/seg/query_models.py [--repeats R] [--threads T] [--only
step|memory|predict]`. Both networks have the same random weights and take the same images in turn,
in one process; the median of the ratios of R rounds counts. A training step is forward, losses and
backward of a ResNet-50 at 320 px, batch 2, with 7 objects an image; a prediction ends with run
lengths at 640 px. Memory is the peak above the start of a step, of processes of their own. Only the
ratios can be compared between machines.

`--digits` trains both from the packaged backbone on digit scenes, in turn, each for `--minutes` of
one thread with the recipe `configs/quickstart/mask2former.yaml`, and scores them on the 200 test
scenes (benchmarks/seg/query_models_digits.py); what is finished in `--folder` is not done again.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.mask_rcnn import in_turn, show
from formats.weights.public import recognised
from models.backbones.timm_features import TimmFeatures
from models.seg.mask2former import Mask2Former
from structures import SegBatch

CLASSES, OBJECTS, STRIDES = 80, 7, (4, 8, 16, 32)
WEIGHTS = {"class": 2.0, "mask": 5.0, "dice": 5.0}
STEP, PREDICTION = 320, 640
SIDES = ("ours", "transformers")


def networks() -> tuple[Any, Any]:
    """Return the network of `transformers` and ours, a ResNet-50 each, with the same weights."""
    import transformers

    stages = [f"stage{n}" for n in range(1, 5)]
    backbone = transformers.ResNetConfig(out_features=stages)
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=CLASSES)
    torch.manual_seed(0)
    theirs = transformers.Mask2FormerForUniversalSegmentation(config)
    for name, value in theirs.state_dict().items():
        # Batch norms are drawn around 0 there, and without biases no mask has a pixel.
        if name.endswith("normalization.weight"):
            value.fill_(1)
        elif name.endswith("bias"):
            value.add_(torch.randn(value.shape), alpha=0.1)
    ours = Mask2Former(CLASSES, TimmFeatures("resnet50", norm="frozen_bn", strides=STRIDES))
    found = recognised(ours, theirs.state_dict())
    assert found is not None
    ours.load_state_dict(found.tensors)
    return theirs, ours


def make_batch(side: int, count: int) -> SegBatch:
    """Return noise images with ellipses."""
    generator = torch.Generator().manual_seed(0)
    total = count * OBJECTS
    centre, radius = (
        low + high * torch.rand(total, 2, generator=generator)
        for low, high in ((0.2, 0.6), (0.05, 0.15))
    )
    y, x = torch.meshgrid(*2 * [(torch.arange(side) + 0.5) / side], indexing="ij")
    away = (
        ((torch.stack([x, y], -1) - centre[:, None, None]) / radius[:, None, None]).square().sum(-1)
    )
    sizes = torch.tensor([[side, side]] * count)
    return SegBatch(
        images=torch.rand(count, 3, side, side, generator=generator),
        sizes=sizes,
        boxes=torch.cat([centre - radius, centre + radius], dim=1) * side,
        labels=torch.randint(0, CLASSES, (total,), generator=generator),
        masks=away < 1,
        counts=torch.tensor([OBJECTS] * count),
        crowd=torch.zeros(total, dtype=torch.bool),
        index=torch.arange(count),
        original_sizes=sizes,
    )


def our_step(model: Mask2Former, batch: SegBatch) -> Callable[[], None]:
    """Return a training step of ours."""

    def step() -> None:
        model.zero_grad()
        terms = model.losses(batch)
        torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum().backward()

    return step


def their_step(model: Any, batch: SegBatch, images: Tensor) -> Callable[[], None]:
    """Return a training step of `transformers`."""
    masks = [masks.float() for masks in batch.masks.split(OBJECTS)]
    labels = list(batch.labels.split(OBJECTS))

    def step() -> None:
        model.zero_grad()
        model(pixel_values=images, mask_labels=masks, class_labels=labels).loss.backward()

    return step


def steps() -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a training step of ours and of `transformers`."""
    theirs, ours = networks()
    batch = make_batch(STEP, 2)
    ours.train().to(memory_format=torch.channels_last)
    for module in theirs.train().modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # ours are frozen, as the authors' are
            module.eval()
    return our_step(ours, batch), their_step(theirs, batch, (batch.images - ours._mean) / ours._std)


def time_steps(repeats: int) -> None:
    """Compare training steps."""
    show(["training step"], in_turn(repeats, *steps()))


def peak(whose: str) -> float:
    """Return the MiB that a step of ours or theirs needs above those at its start."""
    return peak_of(steps()[whose == "theirs"])


def peak_of(step: Callable[[], object]) -> float:
    """Return the MiB that a call needs above those at its start."""

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    start = resident()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of this process
    step()
    lines = Path("/proc/self/status").read_text().splitlines()
    most = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    return most - start


def compare_memory(repeats: int) -> None:
    """Compare the peak memory of a step, in processes of their own."""
    del repeats
    words = [sys.executable, "-W", "ignore", __file__, "--peak"]
    mine, other = (
        float(subprocess.check_output([*words, whose], text=True).split()[-1])
        for whose in ("ours", "theirs")
    )
    print(f"{'peak memory of a step, MiB':44s} {mine:9.0f} {other:9.0f} {mine / other:6.2f}")


def time_predictions(repeats: int) -> None:
    """Compare predictions up to run lengths; every query counts."""
    from transformers import Mask2FormerImageProcessorPil as Processor

    theirs, ours = networks()
    theirs.eval()
    ours.eval().to(memory_format=torch.channels_last)
    batch, processor = make_batch(PREDICTION, 1), Processor()
    images = (batch.images - ours._mean) / ours._std

    @torch.no_grad()
    def their_prediction() -> list[Any]:
        size = [(PREDICTION, PREDICTION)]
        found = processor.post_process_instance_segmentation(
            theirs(pixel_values=images), threshold=0.0, target_sizes=size, return_binary_maps=True
        )
        masks = [one["segmentation"] for one in found]
        return [
            coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8).transpose(1, 2, 0)))
            for mask in masks
        ]

    show(
        ["prediction to run lengths"],
        in_turn(repeats, lambda: ours.predict(batch), their_prediction),
    )


PARTS = {"step": time_steps, "memory": compare_memory, "predict": time_predictions}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparisons and print one line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=list(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--peak", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/query_models"))
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=SIDES, help="of --digits")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(options.peak))
    elif options.digits:
        from benchmarks.seg.query_models_digits import compare_on_digits

        compare_on_digits(options.folder, options.minutes, options.sides)
    else:
        print(f"{'':44s} {'ours s':>9s} {'theirs s':>9s} {'ratio':>6s}  range")
        for part in options.only:
            PARTS[part](options.repeats)


if __name__ == "__main__":
    main()
