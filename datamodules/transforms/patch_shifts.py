"""Shifts of patches of slides at five severities: stain, scanner, optics and compression.

===========  =================================================  ===============================
shift        what happens to a patch                            strength s at severities 1-5
===========  =================================================  ===============================
stain        amounts of haematoxylin, eosin and DAB change:     .05 .1 .15 .2 .3
             factors in 1 +- s, optical densities in +- s / 4
scanner      hue turns by up to s degrees, each channel has a   4 8 12 18 25
             gain in 1 +- s / 100
defocus      blurred by a disk of radius s                      1 1.5 2 3 4 pixels
jpeg         compressed with the quality s                      75 50 30 15 8
sharpening   x + s (x - blurred x), Gaussian of 1 pixel         .5 1 2 3 5
mpp          the centre, 1 / s of each side, is enlarged: the   1.1 1.25 1.5 1.75 2
             patch of a slide with s times finer pixels
===========  =================================================  ===============================

Stains are parted and changed as by Tellez et al. (2019, arXiv 1902.06543), whose HED-light and
HED-strong have s = .05 and .2; other constants are our own (A810). What is drawn at random, that of
stain and scanner, is the same for all patches of a call, for a slide has one stain and one scanner.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from datamodules.transforms.stain import StainVersion
from structures.own_functions import changed_by

Image = npt.NDArray[np.uint8]
FloatImage = npt.NDArray[np.float32]

STRENGTHS: dict[str, tuple[float, ...]] = {
    "stain": (0.05, 0.1, 0.15, 0.2, 0.3),
    "scanner": (4, 8, 12, 18, 25),
    "defocus": (1, 1.5, 2, 3, 4),
    "jpeg": (75, 50, 30, 15, 8),
    "sharpening": (0.5, 1, 2, 3, 5),
    "mpp": (1.1, 1.25, 1.5, 1.75, 2),
}
PATCH_SHIFTS = tuple(STRENGTHS)
_SHIFT = 0.25  # of densities, relative to that of factors, as A688


def shift_patches(patches: Image, name: str, severity: int, seed: int) -> Image:
    """Return shifted copies of patches of one slide.

    The same arguments give the same bytes in every process, and each patch those that it has alone.

    Args:
        patches: (N, H, W, 3) uint8, RGB.
        name: a name of `PATCH_SHIFTS`, or the dotted name of a function of one's own,
            ``function(patch, severity, rng)``, which returns a patch of the same shape and type.
            Its random numbers begin anew with each patch.
        severity: 1 to 5.
        seed: not negative; of this slide, shift and severity.

    Returns:
        (N, H, W, 3) uint8, RGB.

    Raises:
        ValueError: an argument is wrong.
    """
    if name not in PATCH_SHIFTS and "." not in name:
        raise ValueError(f"there is no shift {name!r}; there are {', '.join(PATCH_SHIFTS)}")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity is a whole number from 1 to 5, got {severity!r}")
    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[3] != 3:
        raise ValueError(
            f"patches are (N, H, W, 3) uint8, got {tuple(patches.shape)} {patches.dtype}"
        )
    change = _change(name, severity, seed)
    shifted = np.empty_like(patches, order="C")
    for patch, target in zip(patches, shifted, strict=True):
        target[:] = change(np.ascontiguousarray(patch))
    return shifted


def disk(radius: float) -> FloatImage:
    """Return a kernel (K, K), K odd, with the share of each pixel that a disk covers; its sum is 1.

    Shares are counted on 16 x 16 points of each pixel.
    """
    reach = int(np.ceil(radius - 0.5))
    points = (np.arange((2 * reach + 1) * 16) + 0.5) / 16 - reach - 0.5
    inside = points[:, None] ** 2 + points**2 <= radius**2
    shares = inside.reshape(2 * reach + 1, 16, 2 * reach + 1, 16).mean(axis=(1, 3))
    return np.asarray(shares / shares.sum(), dtype=np.float32)


def _change(name: str, severity: int, seed: int) -> Callable[[Image], Image]:
    if "." in name:
        return lambda image: changed_by(name, image, severity, seed)
    return _MAKE[name](STRENGTHS[name][severity - 1], np.random.default_rng(seed))


def _stain(strength: float, rng: np.random.Generator) -> Callable[[Image], Image]:
    factors = rng.uniform(1 - strength, 1 + strength, 3).tolist()
    shifts = (_SHIFT * rng.uniform(-strength, strength, 3)).tolist()
    return StainVersion(tuple(factors), tuple(shifts), 0, False).density_map()


def _scanner(strength: float, rng: np.random.Generator) -> Callable[[Image], Image]:
    import cv2

    hue = rng.uniform(-strength, strength)
    gains = 1 + rng.uniform(-strength, strength, 3) / 100

    def change(image: Image) -> Image:
        colours = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)  # hue in degrees
        colours[..., 0] = (colours[..., 0] + hue) % 360
        return _bytes(cv2.cvtColor(colours, cv2.COLOR_HSV2RGB) * gains)

    return change


def _defocus(radius: float, rng: np.random.Generator) -> Callable[[Image], Image]:
    import cv2

    del rng
    kernel = disk(radius)
    return lambda image: _bytes(cv2.filter2D(image.astype(np.float32), -1, kernel))


def _jpeg(quality: float, rng: np.random.Generator) -> Callable[[Image], Image]:
    from PIL import Image as Pillow

    del rng

    def change(image: Image) -> Image:
        file = io.BytesIO()
        Pillow.fromarray(image).save(file, "JPEG", quality=int(quality))
        with Pillow.open(file) as compressed:
            return np.asarray(compressed.convert("RGB"))

    return change


def _sharpening(amount: float, rng: np.random.Generator) -> Callable[[Image], Image]:
    import cv2

    del rng

    def change(image: Image) -> Image:
        values = image.astype(np.float32)
        return _bytes(values + amount * (values - cv2.GaussianBlur(values, (7, 7), 1.0)))

    return change


def _mpp(factor: float, rng: np.random.Generator) -> Callable[[Image], Image]:
    import cv2

    del rng  # A811

    def change(image: Image) -> Image:
        height, width = image.shape[:2]
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        back = np.column_stack([np.eye(2) / factor, middle * (1 - 1 / factor)])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        values: Any = cv2.warpAffine(
            image.astype(np.float32), back, (width, height), None, flags, cv2.BORDER_REFLECT_101
        )
        return _bytes(values)

    return change


def _bytes(values: Any) -> Image:
    found: Image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return found


_MAKE: dict[str, Callable[[float, np.random.Generator], Callable[[Image], Image]]] = {
    "stain": _stain,
    "scanner": _scanner,
    "defocus": _defocus,
    "jpeg": _jpeg,
    "sharpening": _sharpening,
    "mpp": _mpp,
}
