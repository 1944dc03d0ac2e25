"""A legend below an image: pieces of text, each with the colour that it explains or without one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from evaluation.seg.draw import Colour, ImageArray, font_of

NARROWEST = 320  # a narrower image gets a white margin, so that the text has room
_FONT, _ROW, _SWATCH, _GAP = 14, 22, 12, 8  # pixels

Piece = tuple[str, Colour | None]


def with_legend(image: ImageArray, pieces: Sequence[Piece]) -> ImageArray:
    """Return the image above a white strip with the pieces, in as many rows as they need.

    Args:
        image: (H, W, 3) uint8 RGB.
        pieces: text and its colour; text that is longer than a row is cut.

    Returns:
        (H + h, max(W, `NARROWEST`), 3) uint8.
    """
    height, width = image.shape[0], max(image.shape[1], NARROWEST)
    rows = _rows(pieces, width)
    sheet = Image.new("RGB", (width, height + _ROW * len(rows) + _GAP), "white")
    sheet.paste(Image.fromarray(image), (0, 0))
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        y = height + _GAP / 2 + _ROW * (number + 0.5)
        for x, (text, colour) in row:
            if colour is not None:
                corner = (x, y - _SWATCH / 2)
                box = (*corner, corner[0] + _SWATCH, corner[1] + _SWATCH)
                pen.rectangle(box, fill=colour, outline="black")
            left = x if colour is None else x + _SWATCH + _GAP / 2
            pen.text((left, y), text, fill="black", font=font_of(_FONT), anchor="lm")
    return np.asarray(sheet)


def _rows(pieces: Sequence[Piece], width: int) -> list[list[tuple[float, Piece]]]:
    """Place the pieces from left to right; each row holds positions and pieces."""
    font, x = font_of(_FONT), float("inf")
    rows: list[list[tuple[float, Piece]]] = []
    for text, colour in pieces:
        swatch = 0.0 if colour is None else _SWATCH + _GAP / 2
        room = width - 2 * _GAP - swatch
        while font.getlength(text) > room:
            text = text[:-2] + "…"  # noqa: PLW2901
        needed = swatch + font.getlength(text)
        if x + needed > width - _GAP:
            rows.append([])
            x = _GAP
        rows[-1].append((x, (text, colour)))
        x += needed + 2 * _GAP
    return rows
