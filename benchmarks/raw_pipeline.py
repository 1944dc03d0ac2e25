"""Speed of the RAW pipeline beside a per-image form in NumPy, OpenCV and scipy, on one thread.

Run `python benchmarks/raw_pipeline.py [--images 8] [--repeats 15] [--step]`. Both turn 8-bit
images of 600 x 400 into RAW data, add the noise of a dark exposure and interpolate the noisy and
the clean view. The other form handles an image at a time, as in the authors' training: a table for
the tone curve, `numpy.random.poisson`, `scipy.stats.tukeylambda.rvs`, OpenCV's interpolation of
8-bit data. The two alternate, and the ratio of the medians is printed with its bound. ``--step``
also times steps of the quickstart recipe with and without ``low_light``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datamodules.transforms.raw.cameras import CAMERAS
from datamodules.transforms.raw.low_light import LowLightOptions, low_light_views

FASTER = 1.3  # bound on the other form / ours
LONGER = 1.15  # bound on a quickstart step with / without
SIZE = (400, 600)
MATRIX = np.array(
    [
        [2.04840695, -1.27161572, 0.22320878],
        [-0.22163155, 1.77694640, -0.55531485],
        [-0.00770995, -0.59257895, 1.60028890],
    ]
)
_LEVELS = np.arange(256) / 255
_LINEAR = np.maximum(0.5 - np.sin(np.arcsin(1 - 2 * _LEVELS) / 3), 1e-8) ** 2.2
TABLE = _LINEAR.astype(np.float32)
SATURATION = np.float32(15871)


def other_form(image: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return the noisy and the clean view of an image, (h, w, 3) uint8, as uint8."""
    camera, gain = CAMERAS["canon_5d4"], 1 / rng.normal(0.8, 0.1)
    linear = TABLE[image] @ np.linalg.inv(MATRIX).T.astype(np.float32)
    red, blue = rng.uniform(1.9, 2.4), rng.uniform(1.5, 1.9)
    factors = (np.array([1 / red, 1, 1 / blue]) / gain).astype(np.float32)
    light = (np.maximum(linear.mean(-1, keepdims=True) - 0.9, 0) / 0.1) ** 2
    linear = np.clip(linear * np.maximum(light + (1 - light) * factors, factors), 0, 1)
    raw = np.empty(image.shape[:2], dtype=np.float32)
    for colour, y, x in ((0, 0, 0), (1, 0, 1), (2, 1, 1), (1, 1, 0)):
        raw[y::2, x::2] = linear[y::2, x::2, colour]
    log_gain = rng.uniform(*np.log(camera.gains))
    gain = np.exp(log_gain)
    scale, row = (
        np.exp(line.slope * log_gain + line.bias + line.sigma * rng.normal())
        for line in (camera.scale, camera.row)
    )
    shape, ratio = rng.choice(camera.seventieths) / 70, np.float32(rng.uniform(10, 100))
    dark = rng.poisson(raw * (SATURATION / ratio / gain)).astype(np.float32) * np.float32(gain)
    read = stats.tukeylambda.rvs(shape, scale=scale, size=raw.shape, random_state=rng)
    dark += read.astype(np.float32)
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        lines = rng.standard_normal((raw.shape[0] // 2, 1), dtype=np.float32)
        dark[y::2, x::2] += lines * np.float32(row)
    dark += rng.random(raw.shape, dtype=np.float32) - np.float32(0.5)
    dark = np.clip(dark * (ratio / SATURATION), 0, 1)
    return _shown(dark), _shown(raw)


def _shown(bayer: Any) -> Any:
    return cv2.cvtColor((bayer * 255).round().astype(np.uint8), cv2.COLOR_BAYER_RGGB2RGB)


def medians(forms: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of processor time of functions that alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(repeats + 1):
        for name, form in forms.items():
            start = time.process_time()
            form()
            if number:  # the first is for warming up
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def pipeline(count: int, repeats: int) -> float:
    """Print the milliseconds an image of both forms and return their ratio."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(count, *SIZE, 3), dtype=np.uint8)
    batch = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255).contiguous()
    sizes, keys, options = torch.tensor([SIZE] * count), torch.arange(count), LowLightOptions()
    found = medians(
        {
            "numpy, an image at a time": lambda: [other_form(image, rng) for image in images],
            "ours": lambda: low_light_views(batch, sizes, keys, options, normal=True),
        },
        repeats,
    )
    for name, seconds in found.items():
        print(f"{name}: {seconds / count * 1e3:.1f} ms an image, {count / seconds:.1f} images/s")
    other, ours = found.values()
    return other / ours


def quickstart_step(repeats: int) -> float:
    """Print the milliseconds of steps of the quickstart recipe and return their ratio."""
    from jsonargparse import ArgumentParser
    from yaml import safe_load

    from datamodules.seg.digit_scenes import DigitScenesDataModule
    from datamodules.transforms.raw.data import in_low_light
    from lightning_modules.rebuilding import LINKS, place
    from lightning_modules.segmentation import SegmentationModule

    root = Path(__file__).resolve().parents[1]
    model = safe_load((root / "configs/quickstart/mask_rcnn.yaml").read_text())["model"]
    place(model, LINKS["num_classes"], 10)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationModule, "model")
    module = parser.instantiate_classes(parser.parse_object({"model": model})).model
    optimizer = module.optimizer_factory([{"params": list(module.model.parameters())}])
    batch, options = next(iter(DigitScenesDataModule().train_dataloader())), LowLightOptions()

    def step(dark: bool) -> None:
        images = in_low_light(batch, options, 0, epoch=0, dark=True) if dark else batch
        optimizer.zero_grad()
        sum(module.network.losses(images).values()).backward()
        optimizer.step()

    found = medians({"plain": lambda: step(False), "low light": lambda: step(True)}, repeats)
    for name, seconds in found.items():
        print(f"quickstart step, {name}: {seconds * 1e3:.1f} ms")
    plain, dark = found.values()
    return dark / plain


def main() -> int:
    """Print the times and the ratios with their bounds; return 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8, help="images of a batch")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--step", action="store_true", help="also time quickstart steps")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    ratio = pipeline(args.images, args.repeats)
    held = ratio >= FASTER
    print(f"ours is {ratio:.2f} times as fast (bound {FASTER}): {_word(held)}")
    if args.step:
        longer = quickstart_step(args.repeats)
        short = longer <= LONGER
        print(f"a step takes {longer:.2f} times as long (bound {LONGER}): {_word(short)}")
        held = held and short
    return 0 if held else 1


def _word(held: bool) -> str:
    return "held" if held else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
