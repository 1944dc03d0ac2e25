"""Noise of a sensor in the dark: shot noise, read noise, rows and rounding.

Wei, Fu, Zheng and Yang, "Physics-based noise modeling for extreme low-light photography", TPAMI
2021, as Chen et al., "Instance segmentation in the dark", IJCV 2023, use it on images that were
turned into RAW data. With the signal y in digital numbers (DN) after the exposure was divided by
``ratio``,

    z = K Poisson(y / K) + scale Tukey(shape) + row N(0, 1) + rounding,

where the Tukey lambda distribution is drawn for every pixel and the normal one for every row of a
colour plane. The brightness is then restored by ``ratio``, which amplifies the noise. Every random
number is a hash of (key, plane, row, column), so noise depends on nothing but the image's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.transforms.raw.cameras import CAMERAS, Line
from datamodules.transforms.raw.poisson import normal_quantile, poisson_quantile
from structures.keyed_words import STEP, mix, uniform

SATURATION = 16383 - 512  # DN of white above the black level, for every camera (A491)
BITS = range(8, 15)
_PIXELS = 32  # the number of the word of a key from which those of the pixels come
_IMAGE = 33  # of the word for one number of the whole image
_CACHED = 2**16  # numbers; several such tensors fit into the cache
_LEAST_SHAPE = 1e-3  # nearer to 0, where the formula is 0 / 0, the distribution is the same


class Noise(NamedTuple):
    """Parameters of the noise of B images, (B,) float tensors; 0 switches a term off.

    Attributes:
        K: system gain, in DN per photo-electron.
        shape: shape of the Tukey lambda distribution of the read noise.
        scale: its scale in DN, which is not its standard deviation.
        row: standard deviation of the noise of rows, in DN.
        ratio: factor by which the exposure is reduced, at least 1.
    """

    K: Tensor
    shape: Tensor
    scale: Tensor
    row: Tensor
    ratio: Tensor


def draw_noise(
    keys: Tensor, camera: str = "canon_5d4", ratio: Sequence[float] = (10.0, 100.0)
) -> Noise:
    """Draw the parameters of a camera's noise for each key.

    K is log-uniform over the camera's range, the logarithms of the scales are normal around their
    regressions on log K, the shape is one of the calibrated ones and the ratio is uniform.

    Args:
        keys: (B,) int64.
        camera: a name of `CAMERAS`.
        ratio: smallest and largest reduction of the exposure.

    Raises:
        ValueError: the camera is unknown.
    """
    if camera not in CAMERAS:
        raise ValueError(f"low_light.camera is one of {', '.join(CAMERAS)}, got {camera!r}")
    found = CAMERAS[camera]
    gain, shape, scale, row, exposure = numbers(keys, 5).unbind(1)
    low, high = torch.tensor(found.gains).log().tolist()
    log_gain = low + (high - low) * gain
    shapes = torch.tensor(found.seventieths, device=keys.device) / 70
    place = (shape * len(shapes)).long()
    return Noise(
        log_gain.exp(),
        shapes[place],
        _on_line(found.scale, log_gain, scale),
        _on_line(found.row, log_gain, row),
        ratio[0] + (ratio[1] - ratio[0]) * exposure,
    )


def add_noise(
    raw: Tensor, noise: Noise, keys: Tensor, bits: int | None = None, *, one_rounding: bool = False
) -> Tensor:
    """Return RAW images as a dark exposure records them, at their former brightness.

    Args:
        raw: (B, P, h, w) float in [0, 1], P colour planes.
        noise: parameters of each image.
        keys: (B,) int64, which the random numbers follow from.
        bits: precision of the stored numbers, 8 to 14: the signal is rounded to multiples of
            2^(14 - bits) DN. None adds U(-1/2, 1/2) DN to every pixel instead.
        one_rounding: draw that number once for the whole image, as the authors' code does.

    Returns:
        (B, P, h, w) in [0, 1].

    Raises:
        ValueError: ``bits`` is out of range.
    """
    check_bits(bits)
    gain, shape, scale, row, ratio = (value[:, None, None, None] for value in noise)
    rows = _row_words(keys, raw.shape[1], raw.shape[2])  # (B, P, h, 1)
    banding = normal_quantile(uniform(rows)).mul_(row)
    offset = numbers(keys, 1, _IMAGE)[..., None, None] - 0.5 if one_rounding else None
    out = torch.empty_like(raw)
    for image, plane in _blocks(raw):
        values = Noise(*(v[image] for v in (gain, shape, scale, banding[:, plane], ratio)))
        chosen = None if offset is None else offset[image]
        out[image, plane] = _recorded(raw[image, plane], values, rows[image, plane], bits, chosen)
    return out


def _blocks(raw: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield images and planes to compute at once: on a processor, what fits into its cache."""
    if raw.device.type != "cpu":
        yield slice(None), slice(None)
        return
    for image in range(raw.shape[0]):
        if raw[0].numel() <= _CACHED:
            yield slice(image, image + 1), slice(None)
        else:
            for plane in range(raw.shape[1]):
                yield slice(image, image + 1), slice(plane, plane + 1)


def _recorded(
    raw: Tensor, noise: Noise, rows: Tensor, bits: int | None, offset: Tensor | None
) -> Tensor:
    """Return `add_noise` of a block, where ``noise.row`` is the noise of each row."""
    words = mix(rows + STEP * torch.arange(raw.shape[3], device=raw.device))  # (B, P, h, w)
    signal = raw * (SATURATION / noise.ratio)
    lit, safe = noise.K > 0, torch.where(noise.K > 0, noise.K, 1)
    counts = poisson_quantile(signal / safe, uniform(words, 41))
    signal = torch.where(lit, counts.mul_(safe), signal)
    signal += tukey_quantile(uniform(words, 18), noise.shape).mul_(noise.scale)
    signal += noise.row
    if bits is not None:
        step = 2 ** (BITS[-1] - bits)
        signal = signal.div_(step).round_().mul_(step)
    elif offset is not None:
        signal += offset
    else:
        signal += (words & (2**18 - 1)).float().mul_(2.0**-18).sub_(0.5)
    return signal.mul_(noise.ratio / SATURATION).clamp_(0, 1)


def tukey_quantile(uniform: Tensor, shape: Tensor) -> Tensor:
    """Return the quantiles (u^shape - (1 - u)^shape) / shape of the Tukey lambda distribution.

    Args:
        uniform: u in (0, 1).
        shape: of a shape that broadcasts; nearer to 0 than 0.001 counts as 0.001.
    """
    shape = torch.where(shape.abs() < _LEAST_SHAPE, _LEAST_SHAPE, shape)
    return (uniform**shape).sub_((1 - uniform) ** shape).div_(shape)


def numbers(keys: Tensor, count: int, first: int = 0) -> Tensor:
    """Return ``count`` uniform numbers of each key, (B, count); ``first`` separates uses."""
    return uniform(_words(keys, count, first))


def check_bits(bits: int | None) -> None:
    """Reject a precision that no camera has.

    Raises:
        ValueError: ``bits`` is out of range.
    """
    if bits is not None and bits not in BITS:
        raise ValueError(
            f"low_light.bits is the precision of the camera, from {BITS[0]} to {BITS[-1]}, or null "
            f"for rounding noise, got {bits}"
        )


def _words(keys: Tensor, count: int, first: int) -> Tensor:
    return mix(keys[:, None] + STEP * torch.arange(first, first + count, device=keys.device))


def _row_words(keys: Tensor, planes: int, height: int) -> Tensor:
    place = torch.arange(planes, device=keys.device)[:, None] << 32
    place = place + torch.arange(height, device=keys.device)  # (P, h)
    seeds = _words(keys, 1, _PIXELS)[..., None]
    return mix(seeds ^ place)[..., None]


def _on_line(line: Line, log_gain: Tensor, number: Tensor) -> Tensor:
    spread = line.sigma * normal_quantile(number)
    return (line.slope * log_gain + line.bias + spread).exp()
