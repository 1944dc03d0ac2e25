"""Noise of five cameras in the dark, as functions of the system gain.

Source: the calibrations of Wei, Fu, Zheng and Yang, "Physics-based noise modeling for extreme
low-light photography", TPAMI 2021, in Vandermode/ELD at 53d5408 (camera_params/release, MIT,
(c) 2020 Kaixuan Wei), Profile-1. The file of the Canon EOS 5D Mark IV is the one in
Linwei-Chen/LIS. Values are digital numbers (DN) of a scale of 14 bits after the black level.
"""

from __future__ import annotations

from typing import NamedTuple


class Line(NamedTuple):
    """A regression: log scale = slope log K + bias + sigma N(0, 1), natural logarithms."""

    slope: float
    bias: float
    sigma: float


class Camera(NamedTuple):
    """Calibrated noise of a camera.

    Attributes:
        gains: smallest and largest system gain K, in DN per photo-electron.
        scale: scale of the Tukey lambda distribution of the read noise, in DN.
        row: standard deviation of the noise of rows, in DN.
        seventieths: shapes lambda of that distribution times 70, of which one is drawn; the
            calibrations tried multiples of 1 / 70.
    """

    gains: tuple[float, float]
    scale: Line
    row: Line
    seventieths: tuple[int, ...]


CAMERAS = {
    "canon_5d4": Camera(
        (0.2181895124454343, 13.964128796507795),
        scale=Line(0.6558756156508007, 1.09268679594838, 0.28604721742277756),
        row=Line(0.4712797750747537, -0.8078958947116487, 0.2436176299944695),
        seventieths=(11, 10, 6, 6, 14, 14, 7, 6, 4, 5, 2, 2, 1, 2, 6, 5, 8, 8),
    ),
    "canon_700d": Camera(
        (0.44762889266510675, 28.648249130566832),
        scale=Line(0.5982361749821256, 1.5370438794284738, 0.3888189465002228),
        row=Line(0.6220587550621577, -0.7756471105987757, 0.24848083434051538),
        seventieths=(9, 9, 7, 7, 1, 1, -6, -7, -10, -11, -9, -9, -2, -2, 1, 1),
    ),
    "canon_70d": Camera(
        (0.40749699481911256, 26.079807668423204),
        scale=Line(0.4868061424083776, 1.4642678570994598, 0.3820056048326114),
        row=Line(0.7292220505388829, -0.9370565150367796, 0.2502155842967251),
        seventieths=(10, 10, 8, 8, 2, 2, -7, -6, -12, -12, -11, -11, -6, -6, -2, -2),
    ),
    "nikon_d850": Camera(
        (0.4150393264348262, 26.562516891828878),
        scale=Line(0.4773896839219417, -0.09044499670414502, 0.23920060971003035),
        row=Line(0.44829219631519307, -1.7977103277112132, 0.2321799439489326),
        seventieths=(-8, -8, -14, -14, -15, -15, -16, -16, -17, -17, -12, -12, -10, -10, -7, -7),
    ),
    "sony_a7s2": Camera(
        (0.09391607086816033, 6.010628535562261),
        scale=Line(0.46210495986526035, 0.5657147358616816, 0.2633712220097871),
        row=Line(0.5275360468633209, -0.5917002648887661, 0.29428813016491145),
        seventieths=(8, 9, 4, 3, 0, 0, -3, -4, -6, -6, -6, -6, -8, -8, -10, -9, -10, -10),
    ),
}
