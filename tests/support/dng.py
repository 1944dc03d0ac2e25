"""RAW files that tests write."""

import numpy as np
import pytest

BLACK, WHITE = 512, 16383
PATTERNS = {"RGGB": (0, 1, 1, 2), "GRBG": (1, 0, 2, 1), "GBRG": (1, 2, 0, 1), "BGGR": (2, 1, 1, 0)}


def write_dng(path, levels, pattern="RGGB", orientation=1):
    """Write (h, w) levels above black as a DNG file."""
    tifffile = pytest.importorskip("tifffile", reason="DNG files are written by tifffile")
    pytest.importorskip("rawpy", reason="the extra raw is not installed")
    matrix = [value for row in np.eye(3) for n in row for value in (int(n), 1)]
    tags = [
        (274, "H", 1, orientation, True),
        (33421, "H", 2, (2, 2), True),  # size and colours of the pattern
        (33422, "B", 4, PATTERNS[pattern], True),
        (50706, "B", 4, (1, 4, 0, 0), True),  # version
        (50708, "s", 0, "segmil test", True),
        (50714, "H", 1, BLACK, True),
        (50717, "H", 1, WHITE, True),
        (50721, "2i", 9, matrix, True),
        (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),
    ]
    values = (np.asarray(levels) + BLACK).astype(np.uint16)
    tifffile.imwrite(path, values, photometric=32803, extratags=tags, metadata=None)
    return path


def scene(pattern="RGGB", size=(24, 32)):
    """A mosaic whose red is 1/2, green 1/4 and blue 1/8 of white, with a bright corner."""
    share = np.array([0.5, 0.25, 0.125])[list(PATTERNS[pattern])].reshape(2, 2)
    levels = np.tile(share, (size[0] // 2, size[1] // 2)) * (WHITE - BLACK)
    levels[:4, :4] *= 1.5
    return levels
