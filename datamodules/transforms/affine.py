"""Matrices that rotate, scale, shear, shift and mirror an image.

Matrices are (3, 3) and act on continuous (x, y, 1) with pixel centres at +0.5, so that the same
matrix applies to images, masks and points.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Size = tuple[int, int]


class AffineRanges(Protocol):
    """Ranges of the random transforms of `draw_affine`; see ``MosaicOptions``."""

    @property
    def translate(self) -> float:
        """Largest shift, as a share of the side."""

    @property
    def scale(self) -> float:
        """Largest difference of the scale factor from 1."""

    @property
    def degrees(self) -> float:
        """Largest rotation in degrees."""

    @property
    def shear(self) -> float:
        """Largest shear angle in degrees."""

    @property
    def perspective(self) -> float:
        """Largest perspective term in 1 / pixel."""


def shift(x: float, y: float) -> Matrix:
    """Return the matrix that shifts by (x, y) pixels."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def mirror(side: int, horizontal: bool, vertical: bool) -> Matrix:
    """Return the matrix that flips a square of ``side`` pixels horizontally or vertically."""
    x, y = (-1 if horizontal else 1), (-1 if vertical else 1)
    return np.array(
        [[x, 0, side * horizontal], [0, y, side * vertical], [0, 0, 1]], dtype=np.float64
    )


def letterbox(size: Size, side: int) -> Matrix:
    """Return the matrix that places a (height, width) image in the middle of a square.

    The longer side then has ``side`` pixels, even if the image is smaller (A234).
    """
    factor = side / max(size)
    x, y = (side - size[1] * factor) / 2, (side - size[0] * factor) / 2
    return shift(x, y) @ np.diag([factor, factor, 1.0])


def draw_affine(rng: np.random.Generator, ranges: AffineRanges, old: int, new: int) -> Matrix:
    """Draw the matrix from a square of ``old`` pixels to one of ``new`` pixels.

    Perspective, then rotation with scale, then shear are applied about the centre, which is mapped
    to the new centre, shifted by up to ``translate`` of the new side.

    Args:
        rng: random generator; nine numbers are drawn regardless of the ranges.
        ranges: range of each transform.
        old: side in pixels.
        new: side in pixels.
    """
    u = rng.uniform(-1, 1, 9)
    perspective = np.eye(3)
    perspective[2, :2] = u[:2] * ranges.perspective
    angle, factor = math.radians(u[2] * ranges.degrees), 1 + u[3] * ranges.scale
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = (math.tan(math.radians(v * ranges.shear)) for v in u[4:6])
    x, y = (new * (0.5 + v * ranges.translate) for v in u[6:8])
    return np.asarray(shift(x, y) @ shear @ turn @ perspective @ shift(-old / 2, -old / 2))


def is_upright(matrix: Matrix) -> bool:
    """Return whether the matrix only scales, shifts and mirrors, so that rows remain rows."""
    return not (matrix[0, 1] or matrix[1, 0] or matrix[2, 0] or matrix[2, 1])


def apply(matrix: Matrix, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return (n, 2) points (x, y) transformed by the matrix."""
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(moved[:, :2] / moved[:, 2:])


def magnification(matrix: Matrix, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the (n,) factors by which small areas around (n, 2) points are scaled.

    The determinant of a projective map's derivative is det M / w^3 with w the third coordinate.
    """
    third = points @ matrix[2, :2] + matrix[2, 2]
    return np.asarray(abs(np.linalg.det(matrix)) / np.abs(third) ** 3)
