"""Optical densities of stained tissue, maps between them, and random changes of its stains.

By the law of Beer and Lambert a pixel of the light I in front of glass of the colour G has the
optical densities D = -ln(I / G) in R, G and B, in which the amounts of the stains are linear.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.sampling.keys import keyed_generator

Image = npt.NDArray[np.uint8]

# Optical densities in R, G, B of haematoxylin, eosin and DAB: Ruifrok and Johnston, Anal. Quant.
# Cytol. Histol. 23, 2001
HED: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
STRENGTH, SHIFT = 0.2, 0.05  # A688
_PURPOSE = 81


def density_tables(glass: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return (3, 256) optical densities of the bytes of each channel; 0 counts as 1."""
    light = np.maximum(np.arange(256.0), 1)
    return np.asarray(-np.log(light / np.asarray(glass, float)[:, None]))


def densities(pixels: Image, glass: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the optical densities of pixels (..., 3)."""
    tables = density_tables(glass)
    return np.stack([tables[c].take(pixels[..., c]) for c in range(3)], axis=-1)


def mean_density(pixels: Image, glass: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the optical density (...) of pixels (..., 3), the mean of the channels."""
    red, green, blue = (density_tables(glass) / 3).astype(np.float32)
    return np.asarray(
        red.take(pixels[..., 0]) + green.take(pixels[..., 1]) + blue.take(pixels[..., 2])
    )


class DensityMap:
    """A linear map of optical densities, D' = D A + b.

    Since the densities of a channel are those of 256 bytes, exp(-D A) is a product of three values
    out of tables, and no pixel needs a logarithm or an exponential function.

    Args:
        matrix: (3, 3), A.
        shift: (3,), b.
        before: colour (3,) of the glass of the images.
        after: colour (3,) of the glass that they get.
    """

    def __init__(
        self,
        matrix: npt.ArrayLike,
        shift: npt.ArrayLike,
        before: npt.ArrayLike,
        after: npt.ArrayLike,
    ) -> None:
        exponents = density_tables(before)[:, :, None] * np.asarray(matrix, float)[:, None, :]
        tables = np.exp(-exponents)  # (3, 256, 3), of the channels before, bytes, channels after
        tables[0] *= np.asarray(after, float) * np.exp(-np.asarray(shift, float))
        self._tables = tables.astype(np.float32)

    def __call__(self, image: Image) -> Image:
        """Return an image (..., 3) with other stains."""
        red, green, blue = self._tables
        light = red.take(image[..., 0], axis=0)
        light *= green.take(image[..., 1], axis=0)
        light *= blue.take(image[..., 2], axis=0)
        found: Image = np.clip(np.rint(light, out=light), 0, 255).astype(np.uint8)
        return found


class StainVersion(NamedTuple):
    """A random version of the patches of a slide: other amounts of its stains, turned, mirrored.

    As in Tellez et al. (2019, arXiv 1902.06543), an image is parted into haematoxylin, eosin and
    DAB, and the amount s of each becomes factor * s + shift.

    Attributes:
        factors: of the three stains.
        shifts: of the three stains, optical densities.
        turns: quarter turns, 0 to 3.
        mirrored: whether left and right are exchanged before.
    """

    factors: tuple[float, float, float]
    shifts: tuple[float, float, float]
    turns: int
    mirrored: bool

    def density_map(self) -> DensityMap:
        """Return the change of the stains."""
        parts = np.linalg.inv(HED)
        matrix = parts @ np.diag(self.factors) @ HED
        white = np.full(3, 255.0)
        return DensityMap(matrix, np.asarray(self.shifts) @ HED, white, white)

    def turned(self, image: Image) -> Image:
        """Return a square image (S, S, 3) mirrored and turned."""
        return np.rot90(image[:, ::-1] if self.mirrored else image, self.turns)


def stain_version(fingerprint: str, version: int) -> StainVersion:
    """Return a version of a slide.

    Args:
        fingerprint: the slide's, hexadecimal digits.
        version: number of the version, from 1.

    Returns:
        The version, which depends on these two alone. Factors lie within 1 - `STRENGTH` and
        1 + `STRENGTH`, shifts within -`SHIFT` and `SHIFT`.
    """
    rng = keyed_generator(_PURPOSE, int(fingerprint, 16), version)  # A689
    factors = rng.uniform(1 - STRENGTH, 1 + STRENGTH, 3).tolist()
    shifts = rng.uniform(-SHIFT, SHIFT, 3).tolist()
    return StainVersion(tuple(factors), tuple(shifts), int(rng.integers(4)), bool(rng.integers(2)))
