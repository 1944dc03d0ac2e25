"""Pasting through windows against a dense paste of the whole image, pixel by pixel."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.ops.masks.paste import paste_to_rle

PIXELS = st.integers(-8, 16).map(lambda k: k / 2)
SIDES = st.integers(0, 40).map(lambda k: k / 2)


def value(mask, x, y):
    """Interpolate between cells; outside there is nothing to read, so coordinates are clamped."""
    x, y = (min(max(v, 0.0), mask.shape[0] - 1.0) for v in (x, y))
    column, row = min(int(x), mask.shape[1] - 2), min(int(y), mask.shape[0] - 2)
    right, down = x - column, y - row
    top = mask[row, column] * (1 - right) + mask[row, column + 1] * right
    bottom = mask[row + 1, column] * (1 - right) + mask[row + 1, column + 1] * right
    return top * (1 - down) + bottom * down


@given(st.integers(0, 99), PIXELS, PIXELS, SIDES, SIDES, st.integers(6, 12), st.integers(6, 12))
def test_every_pixel(seed, left, top, width, height, rows, columns):
    soft = np.random.default_rng(seed).random((4, 4), dtype=np.float32)
    box = torch.tensor([[left, top, left + width, top + height]])
    found = paste_to_rle(torch.from_numpy(soft)[None], box, (rows, columns)).decode()[0]
    padded = np.pad(soft, 1)  # a border of one cell, for which the box grows by 6/4
    x1, x2 = (int(left + width / 2 + sign * width * 0.75) for sign in (-1, 1))
    y1, y2 = (int(top + height / 2 + sign * height * 0.75) for sign in (-1, 1))
    across, down = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    for y in range(rows):
        for x in range(columns):
            if not (x1 <= x < x1 + across and y1 <= y < y1 + down):
                assert not found[y, x]
                continue
            at = ((x - x1 + 0.5) * 6 / across - 0.5, (y - y1 + 0.5) * 6 / down - 0.5)
            expected = value(padded, *at)
            if abs(expected - 0.5) > 1e-5:  # single precision decides the rest
                assert found[y, x] == (expected >= 0.5)
