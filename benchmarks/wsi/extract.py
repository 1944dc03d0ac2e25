"""Speed of `train.py predict` on slides, against the encoder alone and against a plain loop.

Run `python benchmarks/wsi/extract.py`. Three slides of one size are made, once so that a level has
the asked resolution and once with one level, of which four times the pixels must be read. Rates are
patches a second of wall time, with one thread for the network and one process that reads:

    slide to file: `predict`, the slides after the first, from the column `seconds` of its table
    encoder alone: the forward pass of ready batches of the same patches
    plain loop: read a patch, resize it, stack 64 of them, encode them, in one process
    reading: the patches of a slide, in one process

Ends with code 1 if slide to file is below .85 of the encoder alone where a level fits, below .60
where it does not, or below 1.3 times the plain loop. `--profile` prints where the time of the
reading process goes.
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train
from datamodules.wsi.grid import grid
from formats.slides.pyramid import open_slide
from formats.slides.pyramid_writer import write_pyramid
from formats.slides.resolution import PatchReader
from models.backbones.patch_encoder import TimmEncoder

RECIPE = "configs/wsi/extract_features.yaml"
MPP, PX, BATCH = 0.5, 224, 64
SLIDE_MPP, SIDE = 0.25, 448 * 20  # 400 patches a slide
KINDS = {"a level fits": ((2, 4), 0.85), "four times the pixels": ((), 0.60)}
LOOP_BOUND = 1.3


class Rates(NamedTuple):
    """Patches a second."""

    files: float
    encoder: float
    loop: float
    reading: float


def draw(x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return a block that is as hard to compress as tissue."""
    random = np.random.default_rng([x, y])
    coarse = random.normal(0, 1, (height // 16 + 1, width // 16 + 1))
    fine = np.kron(coarse, np.ones((16, 16)))[:height, :width]
    fine += random.normal(0, 0.5, (height, width))
    colour = np.array([180.0, 110.0, 170.0]) + 18 * fine[..., None]
    return np.clip(colour, 0, 255).astype(np.uint8)


def rate(work: Callable[[], object], patches: int, repeats: int) -> float:
    """Return the median rate of several runs."""
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        rates.append(patches / (time.perf_counter() - start))
    return statistics.median(rates)


def written(folder: Path, factors: tuple[int, ...]) -> list[Path]:
    """Write three slides and return their files."""
    files = [folder / "slides" / f"s{number}.tiff" for number in range(3)]
    files[0].parent.mkdir(parents=True)
    for file in files:
        write_pyramid(file, (SIDE, SIDE), SLIDE_MPP, draw, factors=factors)
    return files


def corners() -> list[tuple[int, int]]:
    """Return the corners of the patches of a slide."""
    step = MPP / SLIDE_MPP * PX
    return [(int(x), int(y)) for x, y in grid((0, 0, SIDE, SIDE), step)]


def patches_of(file: Path) -> list[npt.NDArray[np.uint8]]:
    """Read all patches of a slide."""
    with open_slide(file) as slide:
        reader = PatchReader(slide, SLIDE_MPP, MPP, PX)
        return [reader.read(x, y) for x, y in corners()]


def as_batches(patches: list[npt.NDArray[np.uint8]]) -> list[Tensor]:
    """Return ready batches of floats, channels last, which is the faster layout."""
    whole = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() / 255
    return list(whole.split(BATCH))


@torch.no_grad()
def plain_loop(file: Path, encoder: nn.Module) -> None:
    """Do what a short script would do: level 0, one patch after the other, in one process."""
    import openslide
    from torchvision.transforms import v2

    ready = v2.Compose(
        [v2.ToImage(), v2.Resize((PX, PX), antialias=True), v2.ToDtype(torch.float32, scale=True)]
    )
    side, waiting = round(MPP / SLIDE_MPP * PX), []
    slide = openslide.OpenSlide(file)
    for number, place in enumerate(corners(), start=1):
        waiting.append(ready(slide.read_region(place, 0, (side, side)).convert("RGB")))
        if len(waiting) == BATCH or number == len(corners()):
            encoder(torch.stack(waiting)).half().numpy()
            waiting = []
    slide.close()


def to_files(folder: Path, workers: int) -> float:
    """Extract the slides and return the rate of those after the first.

    Raises:
        RuntimeError: the extraction has failed.
    """
    out = folder / "features"
    words = ["predict", "--config", RECIPE, "--data.slides", folder / "slides"]
    words += ["--data.features", out, "--data.batch_size", BATCH, "--data.num_workers", workers]
    words += ["--data.min_tissue", 0, "--runs_dir", folder / "runs"]
    if train.main([str(word) for word in words]):
        raise RuntimeError("the extraction has failed")
    with (out / "extraction.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    patches = {int(row["patches"]) for row in rows}
    if patches != {len(corners())}:
        raise RuntimeError(f"slides have {patches} patches instead of {len(corners())}")
    # The reader is one slide ahead of the network, so the last slides take the time of the slower
    return statistics.median(len(corners()) / float(row["seconds"]) for row in rows[1:])


@torch.no_grad()
def measured(factors: tuple[int, ...], repeats: int) -> Rates:
    """Return the rates of one kind of slides."""
    encoder = TimmEncoder("tf_efficientnet_lite0", weights="efficientnet_lite0").eval()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = written(folder, factors)
        batches = as_batches(patches_of(files[0]))
        encoder(batches[0])  # warm
        count = len(corners())
        return Rates(
            # First, because it sets for all how memory is freed (lightning_modules/host_memory.py)
            files=to_files(folder, workers=1),
            encoder=rate(lambda: [encoder(batch) for batch in batches], count, repeats),
            loop=rate(lambda: plain_loop(files[0], encoder), count, repeats),
            reading=rate(lambda: patches_of(files[0]), count, repeats),
        )


def profiled(factors: tuple[int, ...]) -> None:
    """Print where the time of reading goes."""
    with tempfile.TemporaryDirectory() as name:
        files = written(Path(name), factors)
        profile = cProfile.Profile()
        profile.runcall(patches_of, files[0])
        pstats.Stats(profile).sort_stats("tottime").print_stats(8)


def main() -> int:
    """Measure and print both kinds of slides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where reading takes its time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    missed = False
    for kind, (factors, bound) in KINDS.items():
        found = measured(factors, args.repeats)
        to_encoder, to_loop = found.files / found.encoder, found.files / found.loop
        print(
            f"{kind}: slide to file {found.files:.1f} patches/s, encoder alone {found.encoder:.1f} "
            f"(ratio {to_encoder:.2f}, bound {bound:.2f}), plain loop {found.loop:.1f} (ratio "
            f"{to_loop:.2f}, bound {LOOP_BOUND}), reading alone {found.reading:.0f}"
        )
        missed |= to_encoder < bound or to_loop < LOOP_BOUND
        if args.profile:
            profiled(factors)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
