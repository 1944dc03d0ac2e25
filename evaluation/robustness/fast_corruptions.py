"""Own implementations of the corruptions that cost the library most, from the same random numbers.

H, W: height and width. As in the library, values are cut to whole grey levels, not rounded. The
library works on x / 255, whose multiples of 1 / 255 may lie just below a whole number after the way
back, so that a flat area can lose one level; so it does here (A780).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

_ROWS = 32  # rows that are computed at a time, so that they stay in the cache
_CLOSE = 2e-4  # grey levels; more than the rounding of a mean in single precision
_ZOOMS = (  # first zoom is 1; (end, step) by severity
    (1.11, 0.01),
    (1.16, 0.01),
    (1.21, 0.02),
    (1.26, 0.02),
    (1.31, 0.03),
)
_SNOW = (  # mean and deviation of noise, zoom, threshold, radius and sigma of the blur, weight
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)


def brightness(image: Image, severity: int, seed: int) -> Image:
    """Add .1 to .5 to the value of HSV."""
    shift = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    return _through_hsv(image, lambda s, v: (s, np.clip(v + shift, 0, 1)))


def saturate(image: Image, severity: int, seed: int) -> Image:
    """Scale the saturation of HSV and add to it. Grey has hue 0: severities 4 and 5 redden it."""
    gain, shift = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[severity - 1]
    return _through_hsv(image, lambda s, v: (np.clip(s * gain + shift, 0, 1), v))


def zoom_blur(image: Image, severity: int, seed: int) -> Image:
    """Average the image with its centre at growing zooms."""
    height, width = image.shape[:2]
    end, step = _ZOOMS[severity - 1]
    zooms = np.arange(1, end, step)
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
    total = planes * 2  # the image itself and zoom 1
    for zoom in zooms[1:].tolist():
        total += _zoomed(planes, zoom)[:, :height, :width]
    levels = (total / (len(zooms) + 1)).permute(1, 2, 0).contiguous().numpy()
    return _cut(levels, _flat_after_mean(len(zooms)))


def motion_blur(image: Image, severity: int, seed: int) -> Image:
    """Average the image along a line, with weights that fall from the pixel itself."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity - 1]
    angle = np.random.RandomState(seed).uniform(-45, 45)
    steps, weights = _line(radius, sigma, angle, image.shape[:2])
    grey = np.arange(256, dtype=np.float64)
    flat = np.zeros_like(grey)
    for weight in weights:
        flat = flat + weight * grey
    levels = _along(image.astype(np.float32), steps, weights)
    return _cut(levels, np.clip(flat, 0, 255).astype(np.uint8))


def snow(image: Image, severity: int, seed: int) -> Image:
    """Whiten the image and add flakes, enlarged noise above a threshold, blurred along a line."""
    mean, deviation, zoom, least, radius, sigma, weight = _SNOW[severity - 1]
    height, width = image.shape[:2]
    draw = np.random.RandomState(seed)
    noise = draw.normal(mean, deviation, size=(1, height, width))
    flakes = _zoomed(torch.from_numpy(noise), zoom)[0].numpy()
    flakes[flakes < least] = 0
    np.clip(flakes, 0, 1, out=flakes)
    angle = draw.uniform(-135, -45)
    flakes = _along(flakes, *_line(int(radius), sigma, angle, flakes.shape))
    flakes = np.round(flakes[:height, :width] * 255).astype(np.uint8) / 255.0
    flakes += flakes[::-1, ::-1].copy()  # the same ones, turned by half a turn
    out = image.astype(np.float32) / np.float32(255)
    white = cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)[:, :, None] * 1.5 + 0.5
    out = weight * out + (1 - weight) * np.maximum(out, white)
    return _bytes(out + flakes[:, :, None])


def elastic_transform(image: Image, severity: int, seed: int) -> Image:
    """Move pixels by smooth random offsets, whose size grows with the image."""
    height, width = image.shape[:2]
    strength = (12.5, 16.25, 21.25, 25.0, 30.0)[severity - 1]
    draw = np.random.RandomState(seed)
    offsets = [_smooth(_uniform(draw, height, width)) * strength for _ in "xy"]
    columns = np.arange(width) + offsets[0].astype(np.float32).astype(np.float64)
    rows = np.arange(height)[:, None] + offsets[1].astype(np.float32).astype(np.float64)
    grid = np.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], axis=-1)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
    moved = F.grid_sample(
        torch.from_numpy(planes.astype(np.float64))[None],
        torch.from_numpy(grid)[None],
        padding_mode="reflection",
        align_corners=False,
    )[0]  # (3, H, W)
    levels = moved.float().clamp_(0, 1) * 255
    return np.asarray(levels.permute(1, 2, 0).to(torch.uint8).contiguous(), dtype=np.uint8)


FAST: dict[str, Callable[[Image, int, int], Image]] = {
    function.__name__: function
    for function in (
        motion_blur,
        zoom_blur,
        snow,
        brightness,
        elastic_transform,
        saturate,
    )
}


def _zoomed(planes: torch.Tensor, zoom: float) -> torch.Tensor:
    """Enlarge the centre of planes linearly, corners on corners.

    Args:
        planes: (C, H, W).
        zoom: 1 or more.

    Returns:
        (C, H', W') with H' >= H and W' >= W.
    """
    crop = planes[:, *(_centre(side, zoom) for side in planes.shape[1:])]  # (C, h, w)
    size = [round(side * zoom) for side in crop.shape[1:]]
    with _one_thread():
        zoomed = F.interpolate(crop[None], size=size, mode="bilinear", align_corners=True)[0]
    for axis in (1, 2):
        if _ends_outside(crop.shape[axis], zoomed.shape[axis]):
            zoomed.select(axis, -1).zero_()
    return zoomed


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute in one thread.

    Its kernel for enlarging depends on the number of threads, and with it the last bits: images of
    the main process would differ from those of the workers of a loader, which have one thread.
    """
    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before > 1:
            torch.set_num_threads(before)


def _centre(side: int, zoom: float) -> slice:
    """Return the central part of a side that fills it after the zoom."""
    part = int(np.ceil(side / zoom))
    first = (side - part) // 2
    return slice(first, first + part)


def _ends_outside(before: int, after: int) -> bool:
    """Whether scipy takes the last row after a zoom from outside the image, where it is 0 (A779).

    The row is the last one before the zoom, but for a rounding of its position.
    """
    return (after - 1) * ((before - 1) / (after - 1)) > before - 1


def _flat_after_mean(zooms: int) -> Image:
    """Return what the library makes of a flat area of each grey level: (256,)."""
    value = (np.arange(256) / 255.0).astype(np.float32)
    total = np.zeros_like(value)
    for _ in range(zooms):
        total += value
    mean = (value + total) / np.float32(zooms + 1)
    return np.asarray((np.clip(mean, 0, 1) * np.float32(255)).astype(np.uint8))


def _cut(levels: NDArray[np.float32], flat: Image) -> Image:
    """Cut to whole grey levels; values that are whole but for rounding follow ``flat``."""
    levels += np.float32(_CLOSE)
    cut = np.minimum(levels, np.float32(255)).astype(np.uint8)
    whole = levels - cut < 2 * _CLOSE
    return np.asarray(np.where(whole, flat[cut], cut))


def _line(
    radius: int, sigma: float, angle: float, shape: tuple[int, ...]
) -> tuple[list[tuple[int, int]], Floats]:
    """Return the whole steps (rows, columns) along a line, and the weight of each.

    The line ends where a step would leave an image of this shape, with its weights as they are.
    """
    width = 2 * radius + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)
    weights /= weights.sum()
    y, x = width * np.sin(np.deg2rad(angle)), width * np.cos(np.deg2rad(angle))
    length = math.hypot(y, x)
    steps = [
        (-math.ceil(i * y / length - 0.5), -math.ceil(i * x / length - 0.5)) for i in range(width)
    ]
    inside = [abs(dy) < shape[0] and abs(dx) < shape[1] for dy, dx in steps]
    steps = steps[: inside.index(False)] if False in inside else steps
    return steps, weights[: len(steps)]


def _along(image: NDArray[Any], steps: list[tuple[int, int]], weights: Floats) -> NDArray[Any]:
    """Return the weighted sum of an image moved by each of the steps; its edges are repeated.

    Args:
        image: (H, W, ...) float32 or float64.
        steps: rows and columns by which the image moves down and to the right.
        weights: one for each step.
    """
    height, width = image.shape[:2]
    down, right = zip(*steps, strict=True)
    over = [(max(0, *side), max(0, *(-step for step in side))) for side in (down, right)]
    rest = [(0, 0)] * (image.ndim - 2)
    padded = torch.from_numpy(np.pad(image, [*over, *rest], mode="edge"))
    out = torch.zeros(image.shape, dtype=padded.dtype)
    for rows in _blocks(height):
        for (dy, dx), weight in zip(steps, weights.tolist(), strict=True):
            top, left = rows.start + over[0][0] - dy, over[1][0] - dx
            part = padded[top : top + len(out[rows]), left : left + width]
            out[rows].add_(part, alpha=weight)
    return out.numpy()


def _uniform(draw: np.random.RandomState, height: int, width: int) -> Floats:
    return draw.uniform(-0.005 * height, 0.005 * height, size=(height, width))


def _smooth(field: Floats) -> Floats:
    """Blur by a Gaussian of 1 % of each side, cut off at three standard deviations."""
    kernels = [_gaussian(0.01 * side) for side in field.shape]
    smooth = cv2.sepFilter2D(field, -1, kernels[1], kernels[0], borderType=cv2.BORDER_REFLECT)
    return np.asarray(smooth, dtype=np.float64)


def _gaussian(sigma: float) -> Floats:
    radius = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 * np.arange(-radius, radius + 1) ** 2 / sigma**2)
    return np.asarray(weights / weights.sum())


def _through_hsv(image: Image, change: Callable[[Floats, Floats], tuple[Floats, Floats]]) -> Image:
    """Change saturation and value; hue stays.

    Args:
        image: (H, W, 3) uint8.
        change: returns new saturation and value from the old ones, all (h, W) in [0, 1].
    """
    out = np.empty_like(image)
    for rows in _blocks(len(image)):
        _change_rows(image[rows], out[rows], change)
    return out


def _blocks(height: int) -> Iterator[slice]:
    return (slice(top, top + _ROWS) for top in range(0, height, _ROWS))


def _change_rows(rows: Image, out: Image, change: Callable[..., Any]) -> None:
    """Change HSV of some rows, with the roundings of hue in double precision."""
    red, green, blue = np.ascontiguousarray(rows.transpose(2, 0, 1)) / 255.0  # (3, h, W)
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    grey = spread == 0
    spread[grey] = 1.0  # hue and saturation are 0 there
    saturation = np.where(grey, 0.0, spread / np.where(grey, 1.0, value))
    of_blue, of_green = blue == value, green == value
    difference = np.where(of_blue, red - green, np.where(of_green, blue - red, green - blue))
    hue = (np.where(of_blue, 4.0, np.where(of_green, 2.0, 0.0)) + difference / spread) / 6.0
    hue = np.where(grey, 0.0, np.where(hue < 0, hue + 1.0, hue)) * 6.0
    sector = hue.astype(np.uint8)
    part = hue - sector
    part = np.where(sector % 2 == 1, part, 1.0 - part)
    saturation, value = change(saturation, value)
    high = _bytes(value)
    low = _bytes(value * (1.0 - saturation))
    middle = _bytes(value * (1.0 - part * saturation))
    for channel, first in enumerate((0, 2, 4)):  # the sector after which it is highest
        turn = (sector + 6 - first) % 6
        picked = np.where((turn == 1) | (turn == 4), middle, low)
        out[..., channel] = np.where((turn == 0) | (turn == 5), high, picked)


def _bytes(fraction: Floats) -> Image:
    return np.asarray((np.clip(fraction, 0, 1) * 255).astype(np.uint8))
