"""Bags of tiles of one slide region, with witnesses made by code: clusters of large, dark nuclei.

One region has no lesions that are known, so lesions are drawn: ellipses whose optical density is
that of haematoxylin, on top of the tissue. Squares of tiles are those of the training bags and of
the test bags in turn, like the fields of a chessboard, so that no tile is in both. A bag has
`LENGTH` tiles, each turned and mirrored at random; half of the bags are positive and have one or
two witnesses (A818).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.robustness.plan import TILES
from datamodules.transforms.stain import HED
from engine.deploy.encoded_patches import make_encoder
from formats.slides.readers import OpenSlideReader
from models.backbones.patch_encoder import TimmEncoder

SIDE, LENGTH = 112, 10  # pixels, tiles
BAGS = {"train": 160, "test": 80}
BLOCK = 2  # tiles a side of the squares that take turns in training and test
TISSUE = 0.5  # least share of pixels that are not glass
GLASS = 220  # a pixel is glass above this grey level
WITNESSES = (1, 2)
NUCLEI, RADII, DENSITY = (20, 35), (4.0, 8.0), (1.2, 2.0)
ENCODER = "benchmarks.robustness.tiles.small_encoder"

Pixels = npt.NDArray[np.uint8]


class TileBags(NamedTuple):
    """Files of the bags: features to train on, features to test on, and tiles of the latter."""

    train: Path
    test: Path
    patches: Path


def small_encoder() -> TimmEncoder:
    """Return the packaged EfficientNet for tiles of `SIDE` pixels."""
    return TimmEncoder("tf_efficientnet_lite0", weights="efficientnet_lite0", input_size=SIDE)


def tile_bags(root: Path, slide: Path | None) -> TileBags:
    """Return the files; they are written unless they are there.

    Args:
        root: folder of the study.
        slide: the slide.
    """
    place = root / TILES / "data"
    files = TileBags(place / "train.npz", place / "test.npz", place / "patches")
    if not files.test.is_file():
        if slide is None:
            raise ValueError("--slide names the slide whose tiles are cut")
        pools = cut_tiles(slide)
        encoder = make_encoder(ENCODER)
        for number, (split, file) in enumerate((("train", files.train), ("test", files.test))):
            rng = np.random.default_rng([815, number])
            bags, labels, instances = draw_bags(pools[split], BAGS[split], rng)
            if split == "test":
                _write_patches(files.patches, bags)
            features = np.concatenate([encoder.encode(bag).numpy() for bag in bags])
            index = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, X=features, bag_index=index, y=labels, instance_labels=instances.ravel())
    return files


def cut_tiles(slide: Path) -> dict[str, Pixels]:
    """Return tiles (N, SIDE, SIDE, 3) with tissue; squares of them take turns."""
    reader = OpenSlideReader(slide)
    try:
        width, height = reader.sizes[0]
        region = np.asarray(reader.image(0, 0, 0, width, height).convert("RGB"))
    finally:
        reader.close()
    found: dict[str, list[Pixels]] = {"train": [], "test": []}
    for row in range(height // SIDE):
        for column in range(width // SIDE):
            tile = region[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            if (tile.mean(axis=2) <= GLASS).mean() >= TISSUE:
                turn = row // BLOCK + column // BLOCK
                found["test" if turn % 2 else "train"].append(tile)
    return {split: np.stack(tiles) for split, tiles in found.items()}


def draw_bags(
    pool: Pixels, count: int, rng: np.random.Generator
) -> tuple[list[Pixels], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw bags of tiles.

    Args:
        pool: (N, SIDE, SIDE, 3) tiles.
        count: number of bags B.
        rng: of the bags.

    Returns:
        Bags (LENGTH, SIDE, SIDE, 3), labels (B,) and labels of the tiles (B, LENGTH).
    """
    labels = np.arange(count, dtype=np.int64) % 2
    instances = np.zeros((count, LENGTH), dtype=np.int64)
    bags = []
    for label, of_bag in zip(labels, instances, strict=True):
        tiles = [_turned(pool[k], rng) for k in rng.choice(len(pool), LENGTH, replace=False)]
        if label:
            few = rng.integers(WITNESSES[0], WITNESSES[1] + 1)
            for place in rng.choice(LENGTH, few, replace=False):
                tiles[place] = with_nuclei(tiles[place], rng)
                of_bag[place] = 1
        bags.append(np.stack(tiles))
    return bags, labels, instances


def _turned(tile: Pixels, rng: np.random.Generator) -> Pixels:
    turned = np.rot90(tile, rng.integers(4))
    return np.ascontiguousarray(turned[:, ::-1] if rng.integers(2) else turned)


def with_nuclei(tile: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a tile with a cluster of large, dark nuclei."""
    density = np.zeros(tile.shape[:2], dtype=np.float32)
    centre = rng.uniform(0.3, 0.7, 2) * SIDE
    for _ in range(rng.integers(NUCLEI[0], NUCLEI[1] + 1)):
        x, y = rng.normal(centre, SIDE / 6)
        axes = rng.uniform(*RADII, 2)
        one = np.zeros_like(density)
        ellipse = ((x, y), (2 * axes[0], 2 * axes[1]), rng.uniform(0, 180))
        cv2.ellipse(one, ellipse, rng.uniform(*DENSITY), thickness=-1)
        density = np.maximum(density, one)
    density = cv2.GaussianBlur(density, (0, 0), 0.8)
    light = np.exp(-density[..., None] * HED[0])
    return np.asarray(np.rint(tile * light), dtype=np.uint8)


def _write_patches(folder: Path, bags: list[Pixels]) -> None:
    """Write the tiles of the test bags as DIR/<bag>/*.png."""
    for number, bag in enumerate(bags):
        place = folder / f"test_{number}"
        place.mkdir(parents=True, exist_ok=True)
        for k, tile in enumerate(bag):
            Image.fromarray(tile).save(place / f"{k:02d}.png")
