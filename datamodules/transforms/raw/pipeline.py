"""From an ordinary image to the RAW data of a sensor and back.

The inverse of a camera's processing by Brooks et al., "Unprocessing images for learned raw
denoising", CVPR 2019, with the colour matrix of the Canon EOS 5D Mark IV as in Chen et al.,
"Instance segmentation in the dark", IJCV 2023. The pattern of the sensor is red, green / green,
blue; the planes are in the order R, Gr, B, Gb: the greens of the rows of red and of blue.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.transforms.raw.noise import numbers
from datamodules.transforms.raw.poisson import normal_quantile

# camera RGB -> linear sRGB
_MATRIX = (
    (2.04840695, -1.27161572, 0.22320878),
    (-0.22163155, 1.77694640, -0.55531485),
    (-0.00770995, -0.59257895, 1.60028890),
)
_GAMMA = 2.2
_BRIGHT = 0.9  # greys above it are darkened less, so that white stays white
_SITES = ((0, 0, 0), (1, 0, 1), (2, 1, 1), (1, 1, 0))  # colour, row and column of each plane
_GAINS = 16  # the number of the first word of a key that is used here


class Gains(NamedTuple):
    """Amplification of B images by a camera, (B,) float tensors.

    Attributes:
        brightness: factor on all colours.
        red: further factor on red, the white balance.
        blue: further factor on blue.
    """

    brightness: Tensor
    red: Tensor
    blue: Tensor

    def factors(self) -> Tensor:
        """Return the factor of each colour, (B, 3, 1, 1)."""
        white = torch.stack([self.red, torch.ones_like(self.red), self.blue], dim=1)
        return (white * self.brightness[:, None])[..., None, None]


def draw_gains(keys: Tensor) -> Gains:
    """Draw the gains of Brooks et al. for each key, (B,) int64."""
    bright, red, blue = numbers(keys, 3, _GAINS).unbind(1)
    return Gains(1 / (0.8 + 0.1 * normal_quantile(bright)), 1.9 + 0.5 * red, 1.5 + 0.4 * blue)


def unprocess(images: Tensor, gains: Gains) -> Tensor:
    """Return the RAW data of which a camera makes these images.

    Args:
        images: (B, 3, H, W) float, sRGB in [0, 1]; an odd side is padded by its last line.
        gains: of the camera.

    Returns:
        (B, 4, ceil(H / 2), ceil(W / 2)) in [0, 1]: the planes R, Gr, B, Gb.
    """
    height, width = images.shape[-2:]
    if height % 2 or width % 2:
        images = functional.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
    planes = [
        _seen(images[..., row::2, column::2], gains, slice(colour, colour + 1))
        for colour, row, column in _SITES
    ]
    return torch.cat(planes, dim=1)


def to_camera(images: Tensor, gains: Gains) -> Tensor:
    """Return sRGB images in the colours of the sensor, (B, 3, H, W) in [0, 1], not yet mosaics."""
    return _seen(images, gains, slice(3))


def _seen(images: Tensor, gains: Gains, colours: slice) -> Tensor:
    """Return some colours of the sensor for sRGB images, (B, n, H, W)."""
    inverse = torch.tensor(_MATRIX, dtype=torch.float64).inverse()
    rows = torch.cat([inverse[colours], inverse.mean(0, keepdim=True)])  # the last is grey
    found = rows.to(images) @ _linear(images).flatten(2)
    camera, grey = found[:, :-1], found[:, -1:]
    factors = 1 / gains.factors()[:, colours, 0]
    light = ((grey - _BRIGHT) / (1 - _BRIGHT)).clamp_min_(0).square_()
    safe = torch.maximum(torch.lerp(factors, torch.ones_like(factors), light), factors)
    camera = camera.mul_(safe).clamp_(0, 1)
    return camera.reshape(*camera.shape[:2], *images.shape[-2:])


def to_display(camera: Tensor, gains: Gains) -> Tensor:
    """Return images in the colours of the sensor as sRGB, (B, 3, H, W) in [0, 1]."""
    matrix = torch.tensor(_MATRIX, device=camera.device, dtype=camera.dtype)
    balanced = (camera * gains.factors()).clamp_(0, 1)
    linear = torch.einsum("oc,bchw->bohw", matrix, balanced).clamp_(0, 1)
    curved = linear.pow_(1 / _GAMMA)
    return (3 - 2 * curved).mul_(curved).mul_(curved)


def demosaic(raw: Tensor, channels: Literal[3, 4] = 3) -> Tensor:
    """Interpolate the planes bilinearly to the size of the image.

    Args:
        raw: (B, 4, h, w), the planes R, Gr, B, Gb.
        channels: 3 for red, green, blue; 4 keeps the two greens apart, in the order of the planes.

    Returns:
        (B, channels, 2 h, 2 w).
    """
    batch, _, height, width = raw.shape
    out = raw.new_empty(batch, channels, 2 * height, 2 * width)
    for plane, (colour, row, column) in enumerate(_SITES):
        if channels == 4 or colour != 1:
            _interpolate(raw[:, plane], out[:, plane if channels == 4 else colour], row, column)
    if channels == 3:
        _interpolate_green(raw[:, 1], raw[:, 3], out[:, 1])
    return out


def _interpolate(plane: Tensor, out: Tensor, row: int, column: int) -> None:
    """Write a plane and the means of its neighbours; ``row`` and ``column`` are its first site."""
    beside = plane + _neighbour(plane, 2, column)
    out[:, row::2, column::2] = plane
    out[:, row::2, 1 - column :: 2] = beside * 0.5
    out[:, 1 - row :: 2, column::2] = (plane + _neighbour(plane, 1, row)).mul_(0.5)
    out[:, 1 - row :: 2, 1 - column :: 2] = (beside + _neighbour(beside, 1, row)).mul_(0.25)


def _interpolate_green(of_red: Tensor, of_blue: Tensor, out: Tensor) -> None:
    """Write the greens, and the means of the four around every site of red and of blue."""
    out[:, 0::2, 1::2] = of_red
    out[:, 1::2, 0::2] = of_blue
    red = of_red + _neighbour(of_red, 2, 1) + of_blue + _neighbour(of_blue, 1, 1)
    out[:, 0::2, 0::2] = red.mul_(0.25)
    blue = of_red + _neighbour(of_red, 1, 0) + of_blue + _neighbour(of_blue, 2, 0)
    out[:, 1::2, 1::2] = blue.mul_(0.25)


def develop(raw: Tensor, gains: Gains) -> Tensor:
    """Return the sRGB image of 8 bits that a camera stores, (B, 3, 2 h, 2 w) in [0, 1].

    Args:
        raw: (B, 4, h, w), the planes R, Gr, B, Gb.
        gains: of the camera.
    """
    return to_display(demosaic(raw), gains).mul_(255).round_().div_(255)


def authors_image(raw: Tensor) -> Tensor:
    """Return RAW data as the authors' code hands it to the network, (B, 3, 2 h, 2 w) in [0, 1].

    It rounds to 8 bits before and after the interpolation, repeats the lines beside the border and
    exchanges red and blue, all as OpenCV does with the code that it names.
    """
    image = demosaic(raw.mul(255).round_()).add_(0.5).floor_().div_(255)
    for side in (image, image.transpose(2, 3)):
        side[..., 0], side[..., -1] = side[..., 1], side[..., -2]
    return image.flip(1)


def _linear(images: Tensor) -> Tensor:
    """Undo the tone curve 3 x^2 - 2 x^3 and the gamma of sRGB images."""
    if images.device.type != "cpu":
        return _uncurved(images)
    levels = images * 255
    steps = levels.round()
    if (levels - steps).abs_().max() > 1e-3:  # not of 8 bits
        return _uncurved(images)
    table = _uncurved(torch.arange(256, dtype=torch.float64) / 255).to(images.dtype)
    found = table.index_select(0, steps.int().reshape(-1))  # takes a tenth of the time
    return found.view(images.shape)


def _uncurved(images: Tensor) -> Tensor:
    toned = 0.5 - torch.sin(torch.asin(1 - 2 * images.clamp(0, 1)) / 3)
    return toned.clamp_min_(1e-8).pow_(_GAMMA)


def _neighbour(plane: Tensor, axis: int, offset: int) -> Tensor:
    """Return the next sample along an axis, or the one before; beyond the border its own.

    Args:
        plane: (B, h, w).
        axis: 1 or 2.
        offset: 0 for the next sample, 1 for the one before.
    """
    size = plane.shape[axis]
    if offset:
        return torch.cat([plane.narrow(axis, 0, 1), plane.narrow(axis, 0, size - 1)], dim=axis)
    return torch.cat([plane.narrow(axis, 1, size - 1), plane.narrow(axis, size - 1, 1)], dim=axis)
