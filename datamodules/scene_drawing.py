"""Drawing of a scene of handwritten digits on a smooth, noisy background, with exact masks."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.digits import DigitSplit, source_digits

Floats = npt.NDArray[np.float64]
Texture = Literal["smooth", "plain", "stripes"]

_CELL = 8  # fine pixels of a glyph per pixel of the source digit
_MARGIN = 1  # empty source pixels around a glyph, so that its outline is closed
_FULL = 16  # largest value of a source digit
_INK = 7.5 / _FULL  # a point is ink above this share of the largest value
_SOFTNESS = 0.35  # range of values over which the ink becomes opaque
_INKS = (8, 3)  # colours among which a digit chooses
_CONTRAST = 0.25  # mean difference per channel between the ink and the background under it
_GAMMA = 2.2  # display values are light to the power 1 / gamma
_FULL_WELL = 1000.0  # photons in a bright pixel of a dark scene's sensor
_READ_NOISE = 0.002


@dataclass(frozen=True, slots=True)
class SceneStyle:
    """Appearance of scenes; the defaults are the frozen values of the embedded data set.

    Attributes:
        size: side of the square image in pixels.
        digits: smallest and largest number of digits per scene.
        digit_size: smallest and largest side in pixels of the square that a digit fills.
        rotation: largest rotation in either direction in degrees.
        textures: kinds of background, of which one is drawn for each scene.
        dark: low-light versions of the same scenes, with the corresponding sensor noise.
        exposure: range of the share of light that remains in dark scenes.
    """

    size: int = 128
    digits: tuple[int, int] = (2, 6)
    digit_size: tuple[int, int] = (24, 56)
    rotation: float = 20.0
    textures: tuple[Texture, ...] = ("smooth",)
    dark: bool = False
    exposure: tuple[float, float] = (0.02, 0.1)

    def __post_init__(self) -> None:
        for name in ("digits", "digit_size", "exposure"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be an increasing range above 0, got {low} to {high}")
        if self.digits[1] > 255:
            raise ValueError(f"a scene can have at most 255 digits, got {self.digits[1]}")
        if self.digit_size[1] > self.size:
            raise ValueError(
                f"digits of {self.digit_size[1]} px do not fit an image of {self.size} px"
            )
        unknown = sorted(set(self.textures) - {"smooth", "plain", "stripes"})
        if unknown or not self.textures:
            raise ValueError(f"textures must be smooth, plain or stripes, got {unknown or 'none'}")


class Scene(NamedTuple):
    """One scene: the image (s, s, 3) uint8 RGB, the visible digit of each pixel, and all digits.

    ``owner`` (s, s) uint8 is 0 on the background and k + 1 where digit k is the topmost one;
    ``labels`` (n,) int64 are the digits 0 to 9 in drawing order.
    """

    image: npt.NDArray[np.uint8]
    owner: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def _cubic(distance: Floats) -> Floats:
    """Evaluate the cubic convolution kernel (Keys 1981, a = -1/2)."""
    x = np.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@functools.cache
def _glyphs(split: DigitSplit) -> npt.NDArray[np.uint8]:
    """Return the digits of a split, enlarged eight times by a smooth kernel, 255 = full ink."""
    images = source_digits(split).images.astype(np.float64) / _FULL
    padded = np.pad(images, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))
    coarse = np.arange(padded.shape[-1]) + 0.5
    fine = (np.arange(padded.shape[-1] * _CELL) + 0.5) / _CELL
    spread = _cubic(fine[:, None] - coarse[None, :])
    return np.rint(np.clip(spread @ padded @ spread.T, 0, 1) * 255).astype(np.uint8)


@functools.cache
def _spread(size: int, knots: int) -> Floats:
    """Return the (size, knots) matrix that interpolates smoothly between evenly spaced knots."""
    place = np.linspace(0, knots - 1, size)
    weights = _cubic(place[:, None] - np.arange(-1, knots + 1)[None, :])
    inner = weights[:, 1:-1].copy()
    inner[:, 0] += weights[:, 0]  # the outermost knots are repeated beyond the ends
    inner[:, -1] += weights[:, -1]
    return inner


def _background(rng: np.random.Generator, style: SceneStyle) -> Floats:
    """Return (s, s, 3) display values, mostly between 0.1 and 0.9."""
    texture = style.textures[int(rng.integers(len(style.textures)))]
    size = style.size
    if texture == "plain":
        return np.broadcast_to(rng.uniform(0.1, 0.9, 3), (size, size, 3)).copy()
    knots = int(rng.integers(2, 7))
    spread = _spread(size, knots)
    smooth = spread @ rng.uniform(0.1, 0.9, (3, knots, knots)) @ spread.T
    if texture == "stripes":
        angle, period = rng.uniform(0, math.pi), rng.uniform(6, 24)
        phase = np.arange(size) * (2 * math.pi / period)
        wave = phase[:, None] * math.sin(angle) + phase[None, :] * math.cos(angle)
        smooth += rng.uniform(0.05, 0.15) * np.sin(wave)
    return smooth.transpose(1, 2, 0).copy()


def _coverage(glyph: npt.NDArray[np.uint8], x: Floats, y: Floats) -> Floats:
    """Interpolate a glyph bilinearly; x and y are in fine pixels with centres at +0.5."""
    limit = glyph.shape[0] - 1.001
    x, y = np.clip(x - 0.5, 0, limit), np.clip(y - 0.5, 0, limit)
    left, top = x.astype(np.intp), y.astype(np.intp)
    x, y = x - left, y - top
    first = top * glyph.shape[1] + left
    flat = glyph.ravel().astype(np.float64)
    upper = flat[first] * (1 - x) + flat[first + 1] * x
    lower = flat[first + glyph.shape[1]] * (1 - x) + flat[first + glyph.shape[1] + 1] * x
    return np.asarray((upper * (1 - y) + lower * y) / 255)


def _window(centre: float, reach: float, size: int) -> slice:
    return slice(max(math.floor(centre - reach), 0), min(math.ceil(centre + reach), size))


def _ink(rng: np.random.Generator, under: Floats) -> Floats:
    """Draw a random colour that stands out from the mean colour under the digit."""
    candidates = rng.uniform(0, 1, _INKS)
    contrast = np.abs(candidates - under).mean(axis=1)
    good = np.flatnonzero(contrast >= _CONTRAST)
    best = good[0] if good.size else contrast.argmax()
    return np.asarray(candidates[best])


class _Shape(NamedTuple):
    """A digit in its window: values between 0 and 1, full ink from ``_INK`` on."""

    rows: slice
    columns: slice
    value: Floats


def _place_digit(
    rng: np.random.Generator, glyph: npt.NDArray[np.uint8], style: SceneStyle
) -> _Shape:
    """Draw size, rotation and place of a digit and return its shape."""
    side = float(rng.integers(style.digit_size[0], style.digit_size[1] + 1))
    angle = math.radians(rng.uniform(-style.rotation, style.rotation))
    across, down = rng.uniform(side / 2, style.size - side / 2, 2)
    cosine, sine = math.cos(angle), math.sin(angle)
    reach = side / 2 * (abs(cosine) + abs(sine)) * 1.15
    rows, columns = _window(down, reach, style.size), _window(across, reach, style.size)
    scale = glyph.shape[0] / side * 8 / (8 + 2 * _MARGIN)
    middle = glyph.shape[0] / 2
    x = (np.arange(columns.start, columns.stop) + 0.5 - across)[None, :] * scale
    y = (np.arange(rows.start, rows.stop) + 0.5 - down)[:, None] * scale
    value = _coverage(glyph, cosine * x + sine * y + middle, cosine * y - sine * x + middle)
    return _Shape(rows, columns, value)


def _paint(rng: np.random.Generator, shape: _Shape, canvas: Floats) -> None:
    """Paint one digit on the canvas."""
    opacity = np.clip((shape.value - _INK) / _SOFTNESS + 0.5, 0, 1)
    inside = shape.value >= _INK
    part = canvas[shape.rows, shape.columns]
    under = part[inside].mean(axis=0) if inside.any() else part.mean(axis=(0, 1))
    part += opacity[..., None] * (_ink(rng, under) - part)


def _own(shape: _Shape, owner: npt.NDArray[np.uint8], number: int) -> None:
    """Record the digit as the topmost one of its pixels."""
    owner[shape.rows, shape.columns][shape.value >= _INK] = number


def _darken(rng: np.random.Generator, canvas: Floats, style: SceneStyle) -> Floats:
    """Reduce the light to a random share and add shot noise and read noise."""
    light = np.clip(canvas, 0, 1) ** _GAMMA * rng.uniform(*style.exposure)
    spread = np.sqrt(light / _FULL_WELL + _READ_NOISE**2)
    noisy = light + spread * rng.standard_normal(canvas.shape)
    return np.asarray(np.clip(noisy, 0, 1) ** (1 / _GAMMA), dtype=np.float64)


def draw_scene(
    rng: np.random.Generator,
    split: DigitSplit,
    style: SceneStyle,
    allowed: npt.NDArray[np.int64],
) -> Scene:
    """Draw a scene; later digits occlude earlier ones.

    Args:
        rng: the only source of randomness.
        split: split whose source digits are used.
        style: sizes, numbers and appearance.
        allowed: (n,) rows of the split's digits to choose from.
    """
    digits, glyphs = source_digits(split), _glyphs(split)
    canvas = _background(rng, style)
    owner = np.zeros((style.size, style.size), dtype=np.uint8)
    count = int(rng.integers(style.digits[0], style.digits[1] + 1))
    chosen = allowed[rng.integers(allowed.size, size=count)]
    for number, row in enumerate(chosen, start=1):
        shape = _place_digit(rng, glyphs[row], style)
        _paint(rng, shape, canvas)
        _own(shape, owner, number)
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    canvas += rng.uniform(0.01, 0.06) * noise
    if style.dark:
        canvas = _darken(rng, canvas, style)
    image = np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    return Scene(image, owner, digits.labels[chosen])


def draw_outlines(
    rng: np.random.Generator,
    split: DigitSplit,
    style: SceneStyle,
    allowed: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return ``owner`` and ``labels`` of the scene that `draw_scene` draws, without painting it.

    See `draw_scene` for the arguments.
    """
    digits, glyphs = source_digits(split), _glyphs(split)
    _background(rng, style)  # draws from the generator
    owner = np.zeros((style.size, style.size), dtype=np.uint8)
    count = int(rng.integers(style.digits[0], style.digits[1] + 1))
    chosen = allowed[rng.integers(allowed.size, size=count)]
    for number, row in enumerate(chosen, start=1):
        shape = _place_digit(rng, glyphs[row], style)
        rng.uniform(0, 1, _INKS)  # the colour
        _own(shape, owner, number)
    return owner, digits.labels[chosen]
