"""Slide files: finding them, opening them, and reading regions of their levels.

A slide is an image of gigapixels in several sizes, the levels. Level 0 is the largest. OpenSlide
reads the file (https://openslide.org/formats); what it refuses is given to tiffslide.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from formats.slides.readers import OpenSlideReader, Reader, TiffSlideReader, missing_bytes

SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm",
)  # fmt: skip
AGAIN = "copy the file again, or leave the slide out"
_WHOLE = 1 << 26  # bytes up to which a file is hashed completely
_PARTS = 256  # parts of a larger file that are hashed, evenly spaced
_HEADER = 1 << 16  # bytes of a DICOM file in which the number of its series is looked for
# Study and series of a DICOM file, which follow each other only where they are the file's own
_SERIES = re.compile(
    rb"\x20\x00\x0d\x00(?:UI..|....)[0-9.\x00 ]{1,64}\x20\x00\x0e\x00(?:UI..|....)([0-9.]{1,64})",
    re.DOTALL,
)


class UnreadableRegion(OSError):  # noqa: N818  read as the word for what has happened
    """A region of a slide cannot be read; the message names file, place, cause and remedy."""


class Level(NamedTuple):
    """One of the sizes in which a slide is stored.

    Attributes:
        size: (width, height) in pixels of the level.
        downsample: pixels of level 0 per pixel of the level, in x and in y; >= 1.
    """

    size: tuple[int, int]
    downsample: float


class SlideFile:
    """An open slide. It belongs to the process that has opened it; `open_slide` makes one.

    Args:
        path: the file, or one file of a DICOM series.
        reader: the library's view of it.

    Attributes:
        path: the file.
        reader: ``openslide`` or ``tiffslide``.
        size: (width, height) of level 0.
        levels: level 0 and those that are level 0 reduced, the largest first.
        mpp: micrometres per pixel in x and in y as the file says, or None.
        background: RGB where the slide has no pixels.
        bounds: x, y, width, height of the part with pixels, at level 0.
    """

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path = path
        self.reader = reader.name
        self._reader: Reader | None = reader
        self.size = reader.sizes[0]
        kept = _reduced(reader)
        self._numbers = tuple(kept)  # the library's numbers of the levels
        self.levels = tuple(kept.values())
        said = reader.properties
        given = (said.get("openslide.mpp-x"), said.get("openslide.mpp-y"))
        self.mpp = None if None in given else (float(str(given[0])), float(str(given[1])))
        red, green, blue = bytes.fromhex(said.get("openslide.background-color", "FFFFFF"))
        self.background = (red, green, blue)
        self.bounds = _bounds(reader)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a region of a level as RGB.

        Args:
            level: index into ``levels``.
            x: left edge, in pixels of the level; may lie outside.
            y: upper edge, likewise.
            width: in pixels of the level.
            height: in pixels of the level.

        Returns:
            (height, width, 3), read-only. Pixels outside the slide and transparent ones have the
            background's colour.

        Raises:
            UnreadableRegion: a part of the region is broken. The slide can be read further.
        """
        return np.asarray(self.image(level, x, y, width, height))

    def image(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """Return a region as `read` does, as an image of Pillow, which costs one copy less."""
        across, down = self.levels[level].size
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, across), min(y + height, down)
        if (left, top, right, bottom) == (x, y, x + width, y + height):
            return self._inside(level, x, y, width, height)
        canvas = Image.new("RGB", (width, height), self.background)
        if left < right and top < bottom:
            part = self._inside(level, left, top, right - left, bottom - top)
            canvas.paste(part, (left - x, top - y))
        return canvas

    def _inside(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        try:
            if self._reader is None:  # an error makes OpenSlide's object unusable
                self._reader = _READERS[self.reader](self.path)
            image = self._reader.image(self._numbers[level], x, y, width, height)
        except Exception as error:  # the decoders raise errors of many classes
            self.close()
            raise UnreadableRegion(
                f"{self.path}: the {width} x {height} pixels at ({x}, {y}) of level {level} cannot "
                f"be read ({_cause(error)}); {AGAIN}"
            ) from error
        if image.mode == "RGB":
            return image
        alpha = image.getchannel("A")
        if alpha.getextrema()[0] == 255:
            return image.convert("RGB")
        canvas = Image.new("RGB", image.size, self.background)
        canvas.paste(image, mask=alpha)
        return canvas

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_READERS: dict[str, Callable[[Path], Reader]] = {
    "openslide": OpenSlideReader,
    "tiffslide": TiffSlideReader,
}  # in the order in which they are tried


def open_slide(path: Path) -> SlideFile:
    """Open a slide with OpenSlide, or with tiffslide if OpenSlide refuses the file.

    Only headers are read. A TIFF file whose end is missing is refused.

    Raises:
        OSError: there is no such file.
        ValueError: neither library can read it, or it is cut off, or a library is missing; the
            message names file, cause and remedy.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such slide file; check the path")
    missing = missing_bytes(path)
    if missing:
        raise ValueError(
            f"{path}: the file is cut off, {missing} bytes or more are missing; {AGAIN}"
        )
    refused = []
    for name, reader in _READERS.items():
        try:
            return SlideFile(path, reader(path))
        except Exception as error:  # the decoders raise errors of many classes
            if isinstance(error, ValueError) and isinstance(error.__cause__, ImportError):
                raise  # a library is missing, and the message says so
            refused.append(f"{name}: {_cause(error)}")
    raise ValueError(
        f"{path}: no reader of slides can open it ({'; '.join(refused)}); copy the file again, "
        "convert it to a tiled pyramidal TIFF, or leave the slide out"
    )


def _cause(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _reduced(reader: Reader) -> dict[int, Level]:
    """Return the levels that show what level 0 shows; a label stored as a level is left out."""
    kept = {}
    width, height = reader.sizes[0]
    for number, (size, said) in enumerate(zip(reader.sizes, reader.downsamples, strict=True)):
        # Sizes are rounded, so a factor of 4 looks like 4.0002, an error that grows across the
        # slide. A whole number that explains both sizes is the factor.  # A500
        whole = max(1, round(said))
        factor = float(whole) if _explains(whole, reader.sizes[0], size) else said
        across, down = width / size[0], height / size[1]
        alike = abs(across - down) <= 0.02 * factor + factor / min(size)
        if number == 0 or (alike and factor >= 1):
            kept[number] = Level(size, factor)
    return kept


def _explains(factor: int, large: tuple[int, int], small: tuple[int, int]) -> bool:
    return all(abs(a / factor - b) <= 1 for a, b in zip(large, small, strict=True))


def _bounds(reader: Reader) -> tuple[int, int, int, int]:
    """Return the part of level 0 that has pixels, by default all of it."""
    width, height = reader.sizes[0]
    names = ("x", "y", "width", "height")
    said = [reader.properties.get(f"openslide.bounds-{name}") for name in names]
    if None in said:
        return 0, 0, width, height
    x, y, across, down = (int(str(value)) for value in said)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + across, width), min(y + down, height)
    if right <= left or bottom <= top:
        return 0, 0, width, height
    return left, top, right - left, bottom - top


def find_slides(folder: Path) -> dict[str, Path]:
    """Return the slides of a folder and its subfolders by id, in the order of the ids.

    The id is the name of the file without its suffix. The files of a DICOM series are one slide,
    named after its folder, or after its first file if it has one file or shares the folder. Names
    that begin with a dot are passed over; links are followed.

    Raises:
        ValueError: there is no such folder, there is no slide in it, or two slides have one id.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of slides; check the path")
    found: dict[str, Path] = {}
    for name, path in _slides_below(folder):
        if name in found:
            raise ValueError(
                f"{found[name]} and {path}: two slides have the id {name}; rename or move one"
            )
        found[name] = path
    if not found:
        raise ValueError(
            f"{folder}: there is no slide in it; files that end in {', '.join(SUFFIXES)} are read"
        )
    return dict(sorted(found.items()))


def _slides_below(folder: Path) -> Iterator[tuple[str, Path]]:
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        slides = [path for path in paths if path.suffix.lower() in SUFFIXES]
        series: dict[bytes, list[Path]] = {}
        for path in slides:
            if path.suffix.lower() == ".dcm":
                series.setdefault(_series(path), []).append(path)
            else:
                yield path.stem, path
        for files in series.values():
            alone = len(series) == 1 and len(files) > 1
            yield (files[0].parent.absolute().name if alone else files[0].stem), files[0]


def _series(path: Path) -> bytes:
    """Return the number of a DICOM file's series, or the name of a file that does not tell one."""
    with path.open("rb") as file:
        found = _SERIES.search(file.read(_HEADER))
    return found.group(1) if found else os.fsencode(path.name)


def slide_fingerprint(path: Path) -> str:
    """Return 16 hexadecimal digits that change when a slide's file changes.

    Up to 64 MiB all bytes count, of a larger file its size and 256 parts of 256 KiB.  # A501
    All files of a DICOM series count, and those of the folder of an MRXS slide.
    """
    digest = hashlib.sha256()
    for file in slide_files(path):
        size = file.stat().st_size
        digest.update(f"{size}\n".encode())
        block = min(size, _WHOLE // _PARTS)
        last = size - block
        with file.open("rb") as stream:
            if size <= _WHOLE:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
                continue
            for part in range(_PARTS):
                stream.seek(math.floor(last * part / (_PARTS - 1)))
                digest.update(stream.read(block))
    return digest.hexdigest()[:16]


def slide_bytes(path: Path) -> int:
    """Return the bytes of a slide's files together."""
    return sum(file.stat().st_size for file in slide_files(path))


def slide_files(path: Path) -> list[Path]:
    """Return the files that make a slide."""
    suffix = path.suffix.lower()
    if suffix == ".dcm":
        number = _series(path)
        beside = sorted(file for file in path.parent.iterdir() if file.suffix.lower() == ".dcm")
        return [file for file in beside if _series(file) == number]
    if suffix == ".mrxs" and path.with_suffix("").is_dir():
        return [path, *sorted(f for f in path.with_suffix("").iterdir() if f.is_file())]
    return [path]
