"""Paths of SVG hold the corners of outlines."""

import re

import numpy as np
import pytest

from evaluation.report.page.shapes import svg_path

TOKEN = re.compile(r"[Mlhvz]|-?(?:\d+\.\d+|\.\d+|\d+)")


def rings(path):
    """Read a path back, token by token."""
    found, tokens, command, x, y = [], TOKEN.findall(path), "", 0.0, 0.0
    assert "".join(tokens) == path.replace(" ", "")
    while tokens:
        if tokens[0] in "Mlhvz":
            command = tokens.pop(0)
        if command == "z":
            continue
        if command == "M":
            x, y = float(tokens.pop(0)), float(tokens.pop(0))
            found.append([])
        else:
            x += float(tokens.pop(0)) if command in "lh" else 0
            y += float(tokens.pop(0)) if command in "lv" else 0
        found[-1].append((x, y))
    return found


@pytest.mark.parametrize(("side", "step"), [(400, 0.1), (2000, 1)])
def test_corners_come_back_rounded(side, step):
    rng = np.random.default_rng(0)
    for _ in range(200):
        polygons = [rng.uniform(-1, side, (rng.integers(3, 9), 2)) for _ in range(2)]
        if rng.random() < 0.5:
            polygons[0] = polygons[0].repeat(2, axis=0)  # points that are said twice
        read = rings(svg_path([p.tolist() for p in polygons], side, side // 2))
        for got, ring in zip(read, polygons, strict=True):
            want = list(dict.fromkeys(map(tuple, np.round(ring / step).tolist())))
            assert np.round(np.array(got) / step).tolist() == [list(p) for p in want]


def test_points_on_a_line_are_left_out_and_spikes_are_kept():
    assert svg_path([[(0, 0), (1, 0), (5, 0), (5, 5), (0, 5), (0, 2)]], 9, 9) == "M0 0h5v5h-5z"
    assert svg_path([[(0, 0), (8, 0), (4, 0), (4, 4)]], 9, 9) == "M0 0h8h-4v4z"


def test_nothing_and_a_point():
    assert svg_path([], 9, 9) == ""
    assert svg_path([[(1, 1), (1, 1)]], 9, 9) == "M1 1z"
