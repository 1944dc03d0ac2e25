"""From images to RAW data and back: formulas in NumPy, OpenCV's interpolation, colours."""

import cv2
import numpy as np
import pytest
import torch

from datamodules.transforms.raw.pipeline import (
    Gains,
    authors_image,
    demosaic,
    develop,
    draw_gains,
    to_camera,
    to_display,
    unprocess,
)

MATRIX = np.array(
    [
        [2.04840695, -1.27161572, 0.22320878],
        [-0.22163155, 1.77694640, -0.55531485],
        [-0.00770995, -0.59257895, 1.60028890],
    ]
)
PLACES = ((0, 0, 0), (1, 0, 1), (2, 1, 1), (1, 1, 0))  # R, Gr, B, Gb


def gains(count=1):
    return draw_gains(torch.arange(count))


def by_formula(image, brightness, red, blue):
    """Steps a to f of the specification for one (h, w, 3) image in double precision."""
    x = 0.5 - np.sin(np.arcsin(1 - 2 * image) / 3)
    x = np.maximum(x, 1e-8) ** 2.2
    x = x @ np.linalg.inv(MATRIX).T
    g = np.array([1 / red, 1, 1 / blue]) / brightness
    m = (np.maximum(x.mean(-1, keepdims=True) - 0.9, 0) / 0.1) ** 2
    x = np.clip(x * np.maximum(m + (1 - m) * g, g), 0, 1)
    return np.stack([x[y::2, c::2, k] for k, y, c in PLACES])


@pytest.mark.parametrize("levels", [255, 1000], ids=["8 bits", "others"])
def test_unprocess_follows_the_formulas(levels):
    rng = np.random.default_rng(0)
    images = rng.integers(levels + 1, size=(3, 40, 60, 3)) / levels
    images[0, :10] = images[0, :10] * 0.1 + 0.9  # bright ones
    images[1, 0, :2] = [[0, 0, 0], [1, 1, 1]]
    drawn = gains(3)
    found = unprocess(torch.from_numpy(images).permute(0, 3, 1, 2).float(), drawn)
    for image, planes, *factors in zip(images, found, *map(torch.Tensor.tolist, drawn)):  # noqa: B905
        np.testing.assert_allclose(planes.numpy(), by_formula(image, *factors), atol=1e-5)


def test_without_mosaic_the_image_comes_back():
    images = torch.randint(256, (4, 3, 50, 50)) / 255
    camera = to_camera(images, gains(4))
    inverse = torch.tensor(MATRIX).inverse().float()
    grey = torch.einsum("oc,bchw->bohw", inverse, linear(images)).mean(1, keepdim=True)
    usable = ((camera > 0) & (camera < 1)).all(1, keepdim=True) & (grey < 0.9)
    assert usable.float().mean() > 0.9
    difference = (to_display(camera, gains(4)) - images).abs() * usable
    assert difference.max() < 1e-3


def linear(images):
    return (0.5 - torch.sin(torch.asin(1 - 2 * images) / 3)).clamp_min(1e-8) ** 2.2


@pytest.mark.parametrize("colour", range(3))
def test_a_colour_stays_that_colour(colour):
    images = torch.full((1, 3, 12, 12), 0.1)
    images[:, colour] = 0.9
    raw = unprocess(images, gains())
    assert demosaic(raw)[0].mean((1, 2)).argmax() == colour
    seen = develop(raw, gains())[0]
    torch.testing.assert_close(seen, images[0], atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (6, 3), (1, 8)])
def test_odd_sides_are_padded_by_their_last_line(size):
    images = torch.rand(1, 3, *size)
    padded = torch.nn.functional.pad(images, (0, size[1] % 2, 0, size[0] % 2), mode="replicate")
    found = unprocess(images, gains())
    assert found.shape == (1, 4, -(-size[0] // 2), -(-size[1] // 2))
    assert torch.equal(found, unprocess(padded, gains()))
    assert demosaic(found, 4).shape == (1, 4, 2 * found.shape[2], 2 * found.shape[3])


def mosaic_of(raw):
    full = np.zeros((2 * raw.shape[1], 2 * raw.shape[2]), dtype=raw.dtype)
    for plane, (_, y, x) in zip(raw, PLACES, strict=True):
        full[y::2, x::2] = plane
    return full


def test_interpolation_is_opencvs():
    raw = torch.randint(256, (1, 4, 20, 30))
    bayer = mosaic_of(raw[0].byte().numpy())
    wanted = cv2.cvtColor(bayer, cv2.COLOR_BAYER_RGGB2RGB)
    found = (demosaic(raw.float())[0] + 0.5).floor().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found[1:-1, 1:-1], wanted[1:-1, 1:-1])


@pytest.mark.parametrize("channels", [3, 4])
def test_a_plane_of_constant_slope_is_reproduced(channels):
    """And lies where it was: a shift by one pixel would be seen."""
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    ramp = 3 * y + 5 * x
    raw = torch.stack([ramp[r::2, c::2] for _, r, c in PLACES])[None]
    found = demosaic(raw, channels)[0, :, 1:-1, 1:-1]
    torch.testing.assert_close(found, ramp[1:-1, 1:-1].expand(channels, -1, -1))


def test_four_channels_keep_the_greens_apart():
    raw = torch.zeros(1, 4, 3, 3)
    raw[:, 3] = 1
    assert demosaic(raw, 4)[0].mean((1, 2)).tolist() == [0, 0, 0, 1]
    assert demosaic(raw, 3)[0, 1].mean().item() == pytest.approx(0.5)


def test_a_developed_image_has_8_bits():
    raw = torch.rand(1, 4, 9, 9)
    levels = develop(raw, gains()) * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


def test_the_authors_image_is_what_their_call_of_opencv_returns():
    raw = torch.rand(1, 4, 15, 22)
    bayer = mosaic_of((raw[0] * 255).round().byte().numpy())
    wanted = cv2.cvtColor(bayer, cv2.COLOR_BAYER_RG2RGB)
    found = (authors_image(raw)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, wanted)


def test_drawn_gains_have_their_distributions():
    found = draw_gains(torch.arange(20000))
    assert (1 / found.brightness).mean().item() == pytest.approx(0.8, abs=0.003)
    assert (1 / found.brightness).std().item() == pytest.approx(0.1, rel=0.02)
    assert (found.red.min().item(), found.red.max().item()) == pytest.approx((1.9, 2.4), abs=1e-3)
    assert (found.blue.min().item(), found.blue.max().item()) == pytest.approx((1.5, 1.9), abs=1e-3)


def test_factors_of_the_colours():
    one = Gains(torch.tensor([2.0]), torch.tensor([1.5]), torch.tensor([1.25]))
    assert one.factors().flatten().tolist() == [3, 2, 2.5]
