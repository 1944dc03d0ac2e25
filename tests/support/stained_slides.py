"""Small slide files of two known stains on tinted glass for tests."""

import numpy as np

from tests.support.slides import reduced, write_tiff

STAINS = np.array([[0.68, 0.72, 0.33], [0.13, 0.92, 0.36]])
GLASS = (231, 236, 228)
BORDER = 64  # pixels of glass on each side


def stained_pixels(seed=0, width=640, height=512, strength=1.0):
    """Stroma with nuclei, (H, W, 3): eosin in every pixel of the tissue, haematoxylin in a few."""
    rng = np.random.default_rng(seed)
    amounts = np.zeros((height, width, 2))
    inner = amounts[BORDER:-BORDER, BORDER:-BORDER]
    inner[..., 1] = rng.uniform(0.3, 0.6, inner.shape[:2])
    nuclei = rng.random((inner.shape[0] // 4, inner.shape[1] // 4)) < 0.15
    nuclei = nuclei.repeat(4, 0).repeat(4, 1)
    inner[nuclei] = rng.uniform((0.7, 0.0), (1.3, 0.1), (nuclei.sum(), 2))
    return np.rint(GLASS * np.exp(-strength * amounts @ STAINS)).astype(np.uint8)


def write_stained(path, seed=0, **pixels):
    """Write a slide file of two levels and .5 micrometres per pixel, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = stained_pixels(seed, **pixels)
    return write_tiff(path, [image, reduced(image, 4)], None, 0.5, tile=64)
