"""Images of scores over a slide: a map with its bar, and the patches with extreme scores."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from evaluation.wsi.heatmap import Place, place_patches, ranks

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

OPACITY = 0.6  # of a map over the slide
BAR = 190  # width of a bar with its words
PATCH = 128  # side of a patch in the image of extreme patches
_LETTERS, _LINE = 13, 17  # height of letters and of lines
_WORDS = 5 * _LINE  # height of the words above a bar
_LOW = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_AROUND = ((33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43))


class ScoreMap(NamedTuple):
    """Scores of a slide's patches.

    Attributes:
        name: what they are.
        values: (N,), finite.
        signed: whether they are evidence for and against; their colours are then symmetric to 0.
        rank: (N,) ranks in a bag of several slides, in [0, 1]; None for those in the slide.
        ends: scores at the ends of the colours of all slides of the bag; None for those of this
            slide.
    """

    name: str
    values: Array
    signed: bool = False
    rank: Array | None = None
    ends: tuple[float, float] | None = None

    def of_slide(self, rows: slice) -> ScoreMap:
        """Return the scores of a slide of the bag; ranks and colours stay those of the bag.

        So the slides of a patient can be compared: what is hot is hot among all of them.  # A670
        """
        return self._replace(values=self.values[rows], rank=self.ranks()[rows], ends=self.limits())

    def ranks(self) -> Array:
        """Return (N,) ranks in the bag, from 0 to 1."""
        return ranks(self.values) if self.rank is None else self.rank

    def limits(self) -> tuple[float, float]:
        """Return the scores at the ends of the colours."""
        if self.ends is not None:
            return self.ends
        most = float(np.abs(self.values).max()) if self.signed else float(self.values.max())
        return -most if self.signed else 0.0, most


def draw_maps(
    thumbnail: Pixels,
    maps: Sequence[ScoreMap],
    coords: Array,
    side: float,
    place: Place,
    title: str = "",
) -> Pixels:
    """Draw a row for each map: scores with their bar, then ranks with theirs.

    The top-left pixel is that of the thumbnail.

    Args:
        thumbnail: (H, W, 3) RGB.
        maps: at least one.
        coords: (N, 2) x and y of the patches' top-left corners, in pixels of level 0.
        side: of a patch, in pixels of level 0.
        place: where the thumbnail lies.
        title: above each bar.
    """
    rows = []
    for one in maps:
        ranked = ScoreMap(f"{one.name} rank", one.ranks())
        parts = []
        for shown, limits in ((one, one.limits()), (ranked, (0.0, 1.0))):
            found = place_patches(shown.values, coords, side, place)
            colours = _colours(found.values, limits, shown.signed)
            cover = OPACITY * found.cover[..., None]
            over = np.rint((1 - cover) * thumbnail + cover * colours).astype(np.uint8)
            parts += [over, _bar(len(thumbnail), shown, limits, title)]
        rows.append(_beside(parts))
    return _below(rows)


def _colours(values: Array, limits: tuple[float, float], signed: bool) -> Array:
    """Return RGB (..., 3) of values."""
    stops = np.array(_AROUND if signed else _LOW, np.float64)
    low, high = limits
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(share, at, stops[:, c]) for c in range(3)], axis=-1)


def _bar(height: int, shown: ScoreMap, limits: tuple[float, float], title: str) -> Pixels:
    """Return a panel that says what a map shows, at least tall enough for its words."""
    height = max(height, _WORDS + 6 * _LINE)
    panel = Image.new("RGB", (BAR, height), "white")
    length = min(height - _WORDS - 2 * _LINE, 300)
    scale = np.linspace(limits[1], limits[0], length)[:, None].repeat(20, axis=1)
    painted = _colours(scale, limits, shown.signed).astype(np.uint8)
    panel.paste(Image.fromarray(painted), (10, _WORDS + _LINE // 2))
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(_LETTERS)
    lines = [*textwrap.wrap(title, 24)[:2], *textwrap.wrap(shown.name, 24)[:2]]
    for number, line in enumerate(lines):
        pen.text((10, 6 + number * _LINE), line, fill="black", font=font)
    middle = (limits[0] + limits[1]) / 2
    for share, value in ((0, limits[1]), (0.5, middle), (1, limits[0])):
        pen.text((36, _WORDS + share * length), f"{value:.3g}", fill="black", font=font)
    return np.asarray(panel)


def draw_extremes(
    maps: Sequence[ScoreMap], coords: Array, read: Callable[[float, float], Pixels], count: int
) -> Pixels:
    """Draw the patches with the highest and the lowest scores of each map, with score and place.

    Args:
        maps: at least one.
        coords: (N, 2) x and y of the patches' top-left corners, in pixels of level 0.
        read: returns the RGB pixels of the patch at (x, y).
        count: patches in a row; a slide of fewer patches shows all.
    """
    rows = []
    for one in maps:
        order, place = np.argsort(-one.values, kind="stable"), one.ranks()
        for which, chosen in (("highest", order[:count]), ("lowest", order[::-1][:count])):
            words = (*textwrap.wrap(one.name, 16), which)
            parts = [_caption(None, words)]
            for patch in chosen.tolist():
                x, y = (float(at) for at in coords[patch])
                said = (
                    f"{one.values[patch]:.3g}, rank {place[patch]:.2f}",
                    f"x {x:.0f}, y {y:.0f}",
                )
                parts.append(_caption(read(x, y), said))
            rows.append(_beside(parts))
    return _below(rows)


def _caption(patch: Pixels | None, words: Sequence[str]) -> Pixels:
    """Return a patch with lines of words below it; words alone begin at the top."""
    cell = Image.new("RGB", (PATCH + 8, PATCH + 8 + 2 * _LINE), "white")
    if patch is not None:
        cell.paste(Image.fromarray(patch).resize((PATCH, PATCH)), (4, 4))
    pen, font = ImageDraw.Draw(cell), ImageFont.load_default(_LETTERS)
    for number, line in enumerate(words):
        top = number * _LINE + (6 if patch is None else PATCH + 6)
        pen.text((4, top), line, fill="black", font=font)
    return np.asarray(cell)


def _beside(parts: Sequence[Pixels]) -> Pixels:
    """Join images from left to right, with white below the lower ones."""
    height = max(len(part) for part in parts)
    spread = ((0, 0), (0, 0))
    filled = [
        np.pad(part, ((0, height - len(part)), *spread), constant_values=255) for part in parts
    ]
    return np.concatenate(filled, axis=1)


def _below(rows: Sequence[Pixels]) -> Pixels:
    """Join images from top to bottom, with white right of the narrower ones."""
    width = max(row.shape[1] for row in rows)
    filled = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    return np.concatenate(filled, axis=0)
