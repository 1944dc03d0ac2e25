"""Small slide files with tissue for tests."""

import numpy as np

from tests.support.slides import overwrite, reduced, tile_places, write_tiff

MPP = 0.5
BORDER = 64  # pixels without tissue on each side


def slide_pixels(seed, width=640, height=512, empty=False):
    """A white slide with a block of textured tissue in pink, (H, W, 3)."""
    image = np.full((height, width, 3), 245, np.uint8)
    if not empty:
        rng = np.random.default_rng(seed)
        part = image[BORDER:-BORDER, BORDER:-BORDER]
        shade = rng.integers(0, 60, part.shape[:2])[..., None]
        part[:] = np.array([200, 90, 170]) - shade
    return image


def write_slide(path, seed=0, mpp=MPP, codec=None, **pixels):
    """Write a slide file of two levels and return its path; ``mpp`` None states none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = slide_pixels(seed, **pixels)
    return write_tiff(path, [image, reduced(image, 4)], codec, mpp, tile=64)


def write_broken_slide(path, seed=0):
    """Write a slide of which a tile of level 0, amid the tissue, is broken."""
    write_slide(path, seed, codec="jpeg")
    start, size = tile_places(path)[33]
    overwrite(path, start, b"\0" * size)
    return path
