"""Writing of pyramidal JPEG TIFF files tile by tile, in memory that does not grow with the slide.

OpenSlide reads such a file as a generic tiled TIFF: the first page is level 0, further pages are
marked as reduced images, and the resolution tags give the micrometres per pixel. A pixel of a lower
level is the mean of f x f pixels of the level above. Tiles of lower levels wait in a temporary file
until level 0 is complete, because the pages of a TIFF are written one after the other.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from formats.files import atomic_write

Pixels = npt.NDArray[np.uint8]
DrawBlock = Callable[[int, int, int, int], Pixels | None]
TILE = 256  # side of a tile in pixels
_BLOCK = (2048, 512)  # width and height of what is drawn at once, multiples of the tile
_FACTORS = (2, 4, 8, 16)


def write_pyramid(
    path: Path,
    size: tuple[int, int],
    mpp: float,
    draw: DrawBlock,
    *,
    factors: Sequence[int] = (4, 4),
    background: tuple[int, int, int] = (255, 255, 255),
    quality: int = 85,
) -> None:
    """Write a slide; the file appears under its name when it is complete.

    Args:
        path: the file, usually ``*.tiff``.
        size: width and height of level 0 in pixels.
        mpp: micrometres per pixel of level 0.
        draw: ``draw(x, y, width, height)`` returns RGB (height, width, 3) of a block of level 0, or
            None where all of it is background. Blocks lie within the slide, rows from the top.
        factors: reduction from each level to the next; empty for a file with one level.
        background: RGB of what is not drawn.
        quality: of the JPEG tiles.

    Raises:
        ValueError: a size, a resolution or a factor is out of range.
        ImportError: tifffile is not installed.
    """
    if min(size) < 1 or not mpp > 0 or not set(factors) <= set(_FACTORS):
        raise ValueError(
            f"a slide of {size} pixels of {mpp} um with factors {tuple(factors)}: sizes must be "
            f"positive, factors among {_FACTORS}"
        )
    try:
        from tifffile import TiffWriter
    except ImportError as error:
        raise ImportError("slides are written by tifffile: pip install -e '.[slides]'") from error
    encoder = _TileEncoder(background, quality)
    with contextlib.ExitStack() as stack:
        lower = [stack.enter_context(tempfile.TemporaryFile()) for _ in factors]
        levels = _levels(size, factors, encoder, lower)
        stream = stack.enter_context(atomic_write(path))
        large = size[0] * size[1] > 1 << 31
        file = stack.enter_context(TiffWriter(stream, bigtiff=large, byteorder="<"))
        for number, level in enumerate(levels):
            file.write(
                level.waiting() if number else _drawn(level, draw),
                shape=(level.size[1], level.size[0], 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=int(number > 0),
                resolution=(10_000 / mpp * level.size[0] / size[0],) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
            )


class _TileEncoder:
    """JPEG files of tiles; that of plain background is made once."""

    def __init__(self, background: tuple[int, int, int], quality: int) -> None:
        import cv2

        self.cv2, self.options = cv2, [cv2.IMWRITE_JPEG_QUALITY, quality]
        self.background = np.array(background, np.uint8)
        self.line = np.tile(self.background, TILE)
        self.plain = self.encode(self.empty(TILE, TILE))

    def empty(self, height: int, width: int) -> Pixels:
        """Return background, (height, width, 3)."""
        return np.tile(self.background, height * width).reshape(height, width, 3)

    def encode(self, pixels: Pixels) -> bytes:
        """Return the file of a tile, (TILE, TILE, 3) RGB."""
        bgr = self.cv2.cvtColor(pixels, self.cv2.COLOR_RGB2BGR)
        return bytes(self.cv2.imencode(".jpg", bgr, self.options)[1])

    def is_plain(self, tile: Pixels) -> bool:
        """Return whether a tile is background; most others differ in their first row."""
        first = bool((tile[0].reshape(-1) == self.line).all())
        return first and bool((tile.reshape(TILE, -1) == self.line).all())

    def tiles(self, pixels: Pixels) -> Iterator[bytes]:
        """Yield the files of a row of tiles, (TILE, n TILE, 3)."""
        for left in range(0, pixels.shape[1], TILE):
            tile = pixels[:, left : left + TILE]
            yield self.plain if self.is_plain(tile) else self.encode(tile)

    def reduced(self, pixels: Pixels, factor: int) -> Pixels:
        """Return the means of ``factor`` x ``factor`` pixels."""
        height, width = pixels.shape[:2]
        size = (width // factor, height // factor)
        found: Pixels = self.cv2.resize(pixels, size, interpolation=self.cv2.INTER_AREA)
        return found


class _Level:
    """A level that is filled from the top to the bottom, one row of tiles at a time.

    Args:
        size: width and height in pixels.
        encoder: makes the tiles.
        file: where tiles wait; None for level 0, whose tiles are written at once.
        below: the next level and the reduction to it.
    """

    def __init__(
        self,
        size: tuple[int, int],
        encoder: _TileEncoder,
        file: IO[bytes] | None,
        below: tuple[_Level, int] | None,
    ) -> None:
        self.size, self.encoder, self.file, self.below = size, encoder, file, below
        self.columns, self.rows = -(-size[0] // TILE), -(-size[1] // TILE)
        self.lengths: list[int] = []
        self._top = 0
        self._row: Pixels | None = None if file is None else self._empty()

    def _empty(self) -> Pixels:
        return self.encoder.empty(TILE, self.columns * TILE)

    def add(self, x: int, y: int, pixels: Pixels) -> None:
        """Place pixels that lie in the row of tiles that is being filled."""
        if self._row is not None:
            top, (height, width) = y - self._top, pixels.shape[:2]
            width = min(width, self._row.shape[1] - x)
            self._row[top : top + height, x : x + width] = pixels[:, :width]

    def pass_on(self, x: int, y: int, pixels: Pixels) -> None:
        """Add pixels of this level to the one below."""
        if self.below is not None:
            level, factor = self.below
            level.add(x // factor, y // factor, self.encoder.reduced(pixels, factor))

    def finish(self, bottom: int) -> None:
        """Encode the row of tiles if everything above ``bottom`` is known."""
        if self._row is not None and self.file is not None:
            if bottom < min(self._top + TILE, self.size[1]):
                return
            for tile in self.encoder.tiles(self._row):
                self.lengths.append(self.file.write(tile))
            self.pass_on(0, self._top, self._row)
            self._top, self._row = self._top + TILE, self._empty()
        if self.below is not None:
            level, factor = self.below
            level.finish(level.size[1] if bottom >= self.size[1] else bottom // factor)

    def waiting(self) -> Iterator[bytes]:
        """Yield the tiles of a lower level."""
        assert self.file is not None
        self.file.seek(0)
        for length in self.lengths:
            yield self.file.read(length)


def _levels(
    size: tuple[int, int], factors: Sequence[int], encoder: _TileEncoder, files: Sequence[IO[bytes]]
) -> list[_Level]:
    """Return the levels, level 0 first."""
    sizes = [size]
    for factor in factors:
        sizes.append((-(-sizes[-1][0] // factor), -(-sizes[-1][1] // factor)))
    levels: list[_Level] = []
    below = None
    for number in range(len(factors), -1, -1):
        level = _Level(sizes[number], encoder, files[number - 1] if number else None, below)
        levels.insert(0, level)
        below = (level, factors[number - 1]) if number else None
    return levels


def _drawn(level: _Level, draw: DrawBlock) -> Iterator[bytes]:
    """Draw level 0 and yield its tiles, while the lower levels fill."""
    width, height = level.size
    empty: list[Any] = [level.encoder.plain] * (_BLOCK[0] // TILE)
    for top in range(0, height, _BLOCK[1]):
        rows = -(-min(_BLOCK[1], height - top) // TILE)
        tiles: list[list[bytes]] = [[] for _ in range(rows)]
        for left in range(0, width, _BLOCK[0]):
            size = (min(_BLOCK[0], width - left), min(_BLOCK[1], height - top))
            drawn = draw(left, top, *size)
            columns = -(-size[0] // TILE)
            if drawn is None:
                for row in tiles:
                    row.extend(empty[:columns])
                continue
            whole = drawn
            if size[0] % TILE or size[1] % TILE:
                whole = level.encoder.empty(rows * TILE, columns * TILE)
                whole[: size[1], : size[0]] = drawn
            for number, row in enumerate(tiles):
                row.extend(level.encoder.tiles(whole[number * TILE : (number + 1) * TILE]))
            level.pass_on(left, top, whole)
        level.finish(top + _BLOCK[1])  # nothing runs after the last tile is taken
        for row in tiles:
            yield from row
