"""The option ``low_light`` of the segmentation data: images as a camera records them in the dark.

It is applied to whole batches on their device, after augmentation and resizing, so boxes and masks
stay what they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.transforms.raw.noise import add_noise, check_bits, draw_noise
from datamodules.transforms.raw.pipeline import (
    Gains,
    authors_image,
    demosaic,
    develop,
    draw_gains,
    unprocess,
)
from structures.keyed_words import mix

Input = Literal["raw3", "raw4", "srgb"]
Camera = Literal["canon_5d4", "canon_700d", "canon_70d", "nikon_d850", "sony_a7s2"]
Physics = Literal["corrected", "compat"]
Light = Literal["dark", "normal"]
Sizes = list[tuple[int, int]]  # heights and widths
_EVALUATION = -1  # instead of the epoch


@dataclass(frozen=True)
class LowLightOptions:
    """How images of ordinary light become images of very dark scenes.

    Attributes:
        input: what the network gets: ``raw3``, the RAW data at their former brightness as red,
            green and blue; ``raw4``, the same with the two greens apart (R, Gr, B, Gb); ``srgb``,
            the dark image of 8 bits that the camera stores.
        camera: whose noise is drawn, a name of `datamodules.transforms.raw.cameras`.
        ratio: smallest and largest reduction of the exposure, of which one is drawn an image.
        bits: precision of the RAW data, 8 to 14; None for the noise of rounding to 14 bits.
        physics: ``corrected``, or ``compat`` for what checkpoints of the authors' code need: one
            rounding error for all pixels, 8 bits before and after the interpolation, red and blue
            exchanged.
        clean: training batches also have the images without noise, ``SegBatch.clean_images``.
        evaluate: whether validation and test images are ``dark``, or ``normal``: the same images
            without noise.

    Raises:
        ValueError: a value is out of range or unknown; the message names it.
    """

    input: Input = "raw3"
    camera: Camera = "canon_5d4"
    ratio: tuple[float, float] = (10.0, 100.0)
    bits: int | None = None
    physics: Physics = "corrected"
    clean: bool = False
    evaluate: Light = "dark"

    def __post_init__(self) -> None:
        kinds = {"input": Input, "camera": Camera, "physics": Physics, "evaluate": Light}
        for name, kind in kinds.items():
            given, known = getattr(self, name), get_args(kind)
            if given not in known:
                raise ValueError(f"low_light.{name} is one of {', '.join(known)}, got {given!r}")
        if len(self.ratio) != 2 or not 1 <= self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(
                "low_light.ratio is the smallest and the largest reduction of the exposure, at "
                f"least 1 and not falling, such as [10, 100], got {list(self.ratio)}"
            )
        check_bits(self.bits)
        if self.physics == "compat" and self.input != "raw3":
            raise ValueError(
                "low_light.physics compat is what the authors' code does to three channels of RAW "
                f"data: it needs input raw3, got {self.input}"
            )

    @classmethod
    def of(cls, given: LowLightOptions | Mapping[str, Any] | None) -> LowLightOptions | None:
        """Return the options that a checkpoint's record holds as a dictionary."""
        if not isinstance(given, Mapping):
            return given
        return cls(**{**given, **({"ratio": tuple(given["ratio"])} if "ratio" in given else {})})

    def record(self) -> dict[str, Any]:
        """Return the options as plain values, from which ``of`` makes them again."""
        return dataclasses.asdict(self) | {"ratio": list(self.ratio)}

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return 4 if self.input == "raw4" else 3


class Views(NamedTuple):
    """One or two views of a batch of images, (B, C, H, W); None where it was not asked for."""

    dark: Tensor | None
    normal: Tensor | None


def sample_keys(seed: int, index: Tensor, epoch: int | None = None) -> Tensor:
    """Return the key of each image, (B,) int64.

    Args:
        seed: of the data.
        index: (B,) int64, the number of each image in its data set.
        epoch: of the training; None in evaluation.
    """
    words = torch.tensor([seed, _EVALUATION if epoch is None else epoch], device=index.device)
    return mix(mix(mix(words[0]) ^ words[1]) ^ index)


def low_light_views(
    images: Tensor,
    sizes: Tensor,
    keys: Tensor,
    options: LowLightOptions,
    *,
    dark: bool = True,
    normal: bool = False,
) -> Views:
    """Return images as a camera records them, in the dark and in normal light.

    Args:
        images: (B, 3, H, W) float, sRGB in [0, 1], padded with zeros at the bottom and right.
        sizes: (B, 2) int64, valid (height, width).
        keys: (B,) int64; gains and noise of an image depend on its key alone.
        options: of the recipe.
        dark: return the view with noise.
        normal: return the view without.

    Returns:
        (B, ``options.channels``, H, W) in [0, 1] for each view, padded with zeros.
    """
    valid: Sizes = [(int(h), int(w)) for h, w in sizes.tolist()]
    gains = draw_gains(keys)
    raw = unprocess(_spread(images, valid), gains)
    seen: dict[str, Tensor] = {"normal": raw} if normal else {}
    if dark:
        noise = draw_noise(keys, options.camera, options.ratio)
        compat = options.physics == "compat"
        noisy = add_noise(raw, noise, keys, options.bits, one_rounding=compat)
        if options.input == "srgb":
            noisy /= noise.ratio[:, None, None, None]
        seen["dark"] = noisy
    shape = images.shape[-2:]
    shown = {name: _input(view, valid, gains, options, shape) for name, view in seen.items()}
    return Views(shown.get("dark"), shown.get("normal"))


def _input(
    raw: Tensor, valid: Sizes, gains: Gains, options: LowLightOptions, shape: torch.Size
) -> Tensor:
    """Return what the network gets of RAW data, (B, C, *shape), with zeros as padding."""
    halves = [(-(-height // 2), -(-width // 2)) for height, width in valid]
    if options.physics == "compat":
        view = raw.new_zeros(len(raw), 3, 2 * raw.shape[2], 2 * raw.shape[3])
        for out, image, (h, w) in zip(view, raw, halves, strict=True):
            out[:, : 2 * h, : 2 * w] = authors_image(image[None, :, :h, :w])[0]
    elif options.input == "srgb":
        view = develop(_spread(raw, halves), gains)
    else:
        view = demosaic(_spread(raw, halves), 4 if options.input == "raw4" else 3)
    view = view[..., : shape[0], : shape[1]]
    for image, (height, width) in zip(view, valid, strict=True):
        image[:, height:] = 0
        image[..., width:] = 0
    return view.contiguous()


def _spread(images: Tensor, valid: Sizes) -> Tensor:
    """Repeat the last valid line of each image over its padding, in a copy if there is any.

    What an image becomes then does not depend on the padding, which its batch decides.
    """
    height, width = images.shape[-2:]
    if all(size == (height, width) for size in valid):
        return images
    parts = [
        functional.pad(image[None, :, :h, :w], (0, width - w, 0, height - h), mode="replicate")
        for image, (h, w) in zip(images, valid, strict=True)
    ]
    return torch.cat(parts)
