"""What a synthetic section is drawn with: textures of fibres and grain, and stamps of nuclei.

They are drawn once for each resolution and depend on nothing else.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
import numpy.typing as npt

from datamodules.wsi.synthetic_tissue import (
    EPITHELIUM,
    FIBRE,
    LYMPHOCYTE,
    ORIENTATIONS,
    SHAPES,
    TUMOUR,
)

Pixels = npt.NDArray[np.uint8]
TEXTURE: Final = 1024  # side of the textures in pixels; they repeat
REACH_UM: Final = 16.0  # of a nucleus from its middle
_FINE_UM: Final = 0.2  # of the drawings of nuclei


@functools.lru_cache(maxsize=4)
def textures(mpp: float) -> tuple[Pixels, Pixels]:
    """Return fibres along x and isotropic grain, bytes of mean 128 and deviation about 45."""
    rng = np.random.default_rng(1)
    fy = np.fft.fftfreq(TEXTURE, mpp)[:, None]  # cycles per um
    fx = np.fft.rfftfreq(TEXTURE, mpp)[None]

    def texture(weights: npt.NDArray[np.float64]) -> Pixels:
        noise = np.fft.rfft2(rng.standard_normal((TEXTURE, TEXTURE)))
        values = np.fft.irfft2(noise * weights, (TEXTURE, TEXTURE))
        values /= values.std()
        return np.clip(128 + 45 * values, 0, 255).round().astype(np.uint8)

    across, along = np.abs(fy), np.abs(fx)
    fibres = np.exp(-((along * 24) ** 2)) * across**0.3 * np.exp(-((across * 3.4) ** 2))
    grain = np.hypot(along, across) * np.exp(-((np.hypot(along, across) * 1.6) ** 2))
    return np.pad(texture(fibres), ((0, 1), (0, 1)), mode="wrap"), texture(grain)


@functools.lru_cache(maxsize=4)
def nucleus_stamps(mpp: float) -> list[Pixels]:
    """Return amounts of hematoxylin (s, s), s odd.

    The index is (kind * ORIENTATIONS + orientation) * SHAPES + shape.
    """
    return [
        _nucleus(
            np.random.default_rng([kind, turn, shape]), kind, turn * math.pi / ORIENTATIONS, mpp
        )
        for kind in (EPITHELIUM, FIBRE, LYMPHOCYTE, TUMOUR)
        for turn in range(ORIENTATIONS)
        for shape in range(SHAPES)
    ]


def _nucleus(rng: np.random.Generator, kind: int, angle: float, mpp: float) -> Pixels:
    """Draw a nucleus: an irregular ellipse of chromatin with a rim, clumps and nucleoli."""
    import cv2

    axes, irregular, amount, rim, clumps, nucleoli = {
        EPITHELIUM: ((4.5, 2.9), 0.05, 78, 20, 18, 0),
        FIBRE: ((6.8, 1.5), 0.08, 82, 8, 10, 0),
        LYMPHOCYTE: ((3.2, 3.0), 0.04, 112, 10, 24, 0),
        TUMOUR: ((rng.uniform(5.2, 8.6), rng.uniform(3.9, 6.2)), 0.16, 21, 42, 20, 2),
    }[kind]
    a, b = np.array(axes) * rng.normal(1, 0.09, 2)
    half = math.ceil((max(a, b) * 1.35 + 1) / mpp)
    side = round((2 * half + 1) * mpp / _FINE_UM)
    y, x = (np.mgrid[0:side, 0:side] + 0.5) * ((2 * half + 1) * mpp / side) - (half + 0.5) * mpp
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    radius = np.hypot(along / a, across / b)
    theta = np.arctan2(across / b, along / a)
    for k in range(2, 6):
        radius /= 1 + irregular / (k - 1) * rng.normal() * np.cos(k * theta + rng.uniform(0, 6.3))
    size = math.ceil(side * _FINE_UM / 1.1) + 2
    noise = cv2.resize(
        rng.standard_normal((size, size)), (side, side), interpolation=cv2.INTER_CUBIC
    )
    values = amount * rng.normal(1, 0.08) + clumps * noise
    values = values + rim * np.exp(-(((radius - 0.9) * (a + b) / 2 / 0.8) ** 2))
    for _ in range(rng.integers(1, nucleoli + 1) if nucleoli else 0):
        i, j = rng.uniform(-0.45, 0.45, 2) * axes
        spot = np.exp(-((((along - i) ** 2 + (across - j) ** 2) / rng.uniform(0.8, 1.2) ** 2) ** 2))
        values = np.maximum(values, 120 * spot)
    soft = np.clip((1 - radius) * min(a, b) / 0.6 + 0.5, 0, 1)
    drawn = cv2.GaussianBlur(np.clip(values, 12, 255) * soft, (0, 0), 0.3 / _FINE_UM)
    drawn = cv2.resize(drawn, (2 * half + 1, 2 * half + 1), interpolation=cv2.INTER_AREA)
    found: Pixels = np.clip(np.round(drawn), 0, 255).astype(np.uint8)
    return found
