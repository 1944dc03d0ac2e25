"""Dark images as people look at them, whatever the form is that a network gets."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from datamodules.transforms.raw.low_light import LowLightOptions
from datamodules.transforms.raw.noise import add_noise, draw_noise
from datamodules.transforms.raw.pipeline import develop, draw_gains, unprocess


class DarkImages(NamedTuple):
    """Two developments of the same noisy RAW data, and the scene, (B, 3, H, W) sRGB in [0, 1].

    Attributes:
        stored: what the camera stores, dark.
        bright: the RAW data at their former brightness.
        normal: the images themselves.
    """

    stored: Tensor
    bright: Tensor
    normal: Tensor


def dark_images(images: Tensor, keys: Tensor, options: LowLightOptions) -> DarkImages:
    """Return images with the noise that `low_light_views` gives them, developed twice.

    Args:
        images: (B, 3, H, W) float, sRGB in [0, 1], without padding.
        keys: (B,) int64, see `low_light_views`.
        options: of the recipe; ``input`` does not matter.
    """
    height, width = images.shape[-2:]
    gains, noise = draw_gains(keys), draw_noise(keys, options.camera, options.ratio)
    one_rounding = options.physics == "compat"
    raw = add_noise(unprocess(images, gains), noise, keys, options.bits, one_rounding=one_rounding)
    stored = develop(raw / noise.ratio[:, None, None, None], gains)
    bright = develop(raw, gains)
    return DarkImages(stored[..., :height, :width], bright[..., :height, :width], images)
