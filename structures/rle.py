"""COCO run-length masks in numpy, byte-equal to pycocotools.

A mask of height h and width w is read column by column (Fortran order) and stored as lengths of
alternating runs of 0 and 1, the first run being of zeros and possibly of length 0. COCO files
carry the lengths as text: from the fourth length on, the difference to the length two places
before, each in groups of 5 bits, least significant first, with a continuation bit and offset 48
(format of cocodataset/cocoapi, maskApi.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

Runs = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Size = tuple[int, int]


class CocoRLE(TypedDict):
    """One mask in the format of COCO files and pycocotools; ``counts`` is bytes or ASCII text."""

    size: list[int]
    counts: bytes | str


def _runs_from_edges(starts: Runs, ends: Runs, total: int) -> Runs:
    """Turn sorted, disjoint, non-empty intervals of ones into run lengths."""
    if starts.size and starts.size > 1:
        touching = starts[1:] == ends[:-1]
        starts = starts[np.concatenate(([True], ~touching))]
        ends = ends[np.concatenate((~touching, [True]))]
    edges = np.empty(2 * starts.size + 2, dtype=np.int64)
    edges[0], edges[-1] = 0, total
    edges[1:-1:2], edges[2:-1:2] = starts, ends
    runs = np.diff(edges)
    return runs[:-1] if starts.size and runs[-1] == 0 else runs


def encode(mask: BoolArray) -> Runs:
    """Encode a full (h, w) mask.

    >>> encode(np.array([[0, 1], [0, 1]], dtype=bool)).tolist()
    [2, 2]
    """
    return encode_window(mask, 0, 0, (mask.shape[0], mask.shape[1]))


def encode_window(window: BoolArray, top: int, left: int, size: Size) -> Runs:
    """Encode a mask that is zero outside a window, without building the full mask.

    Args:
        window: (r, c) bool, the part of the mask with its first pixel at row ``top``, column
            ``left``; parts outside the image are cut off.
        top: row of the window's first pixel, may be negative.
        left: column of the window's first pixel, may be negative.
        size: (h, w) of the image.

    Returns:
        (T,) run lengths that sum to h * w.

    Raises:
        ValueError: ``window`` is not two-dimensional.
    """
    if window.ndim != 2:
        raise ValueError(f"a mask window must be (rows, columns), got shape {window.shape}")
    height, width = size
    window = window[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    top, left = max(top, 0), max(left, 0)
    rows, columns = window.shape
    if rows == 0 or columns == 0:
        return np.array([height * width], dtype=np.int64)
    padded = np.zeros((columns, rows + 1), dtype=bool)  # a zero ends every column
    padded[:, :-1] = window.T
    flat = padded.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        edges = np.concatenate(([0], edges))
    column, row = np.divmod(edges, rows + 1)
    position = (column + left) * height + row + top
    return _runs_from_edges(position[::2], position[1::2], height * width)


def encode_soft(
    soft: npt.NDArray[np.floating[Any]], top: int, left: int, size: Size, threshold: float = 0.5
) -> Runs:
    """Encode a soft mask given in a window; a pixel is foreground if its value >= threshold."""
    return encode_window(soft >= threshold, top, left, size)


def decode(runs: Runs, size: Size) -> BoolArray:
    """Decode run lengths to the (h, w) mask.

    Raises:
        ValueError: the runs do not cover exactly h * w pixels.
    """
    height, width = size
    if int(runs.sum()) != height * width:
        raise ValueError(
            f"runs cover {int(runs.sum())} pixels, the size {size} needs {height * width}"
        )
    values = np.arange(runs.size) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def area(runs: Runs) -> int:
    """Return the number of foreground pixels."""
    return int(runs[1::2].sum())


def bounding_box(runs: Runs, size: Size) -> tuple[int, int, int, int]:
    """Return the tight box (x1, y1, x2, y2), half-open; (0, 0, 0, 0) for an empty mask."""
    height = size[0]
    edges = np.cumsum(runs)
    starts, ends = edges[0:-1:2], edges[1::2]
    keep = ends > starts
    starts, ends = starts[keep], ends[keep] - 1
    if starts.size == 0:
        return 0, 0, 0, 0
    first_column, last_column = int(starts[0] // height), int(ends[-1] // height)
    if bool((starts // height != ends // height).any()):  # a run that wraps spans every row
        top, bottom = 0, height - 1
    else:
        top, bottom = int((starts % height).min()), int((ends % height).max())
    return first_column, top, last_column + 1, bottom + 1


def merge(masks: Sequence[Runs], intersect: bool = False) -> Runs:
    """Return the union (or the intersection) of masks of the same size.

    Raises:
        ValueError: the list is empty or the masks cover different numbers of pixels.
    """
    if not masks:
        raise ValueError("cannot merge an empty list of masks")
    totals = {int(m.sum()) for m in masks}
    if len(totals) > 1:
        raise ValueError(f"cannot merge masks of different sizes: {sorted(totals)} pixels")
    edges = [np.cumsum(m) for m in masks]
    starts = np.concatenate([e[0:-1:2] for e in edges])
    ends = np.concatenate([e[1::2] for e in edges])
    position = np.concatenate([starts, ends])
    change = np.concatenate([np.ones_like(starts), -np.ones_like(ends)])
    unique, inverse = np.unique(position, return_inverse=True)
    depth = np.cumsum(np.bincount(inverse, weights=change, minlength=unique.size)).astype(int)
    inside = depth >= (len(masks) if intersect else 1)
    flips = np.diff(np.concatenate(([False], inside)).astype(np.int8))
    return _runs_from_edges(unique[flips > 0], unique[flips < 0], totals.pop())


def _deltas(runs: Runs) -> Runs:
    deltas = runs.astype(np.int64, copy=True)
    deltas[3:] -= runs[1:-2]
    return deltas


def _pack(values: Runs) -> tuple[npt.NDArray[np.uint8], Runs]:
    """Write signed numbers in groups of 5 bits; return the characters and the count per number."""
    columns, alive = [], np.ones(values.shape, dtype=bool)
    used, rest = np.zeros(values.shape, dtype=np.int64), values
    while alive.any():
        chunk = rest & 0x1F
        rest = rest >> 5
        more = np.where(chunk & 0x10, rest != -1, rest != 0)
        columns.append(np.where(more, chunk | 0x20, chunk) + 48)
        used += alive
        alive = alive & more
    if not columns:
        return np.zeros(0, dtype=np.uint8), used
    table = np.stack(columns, axis=1)
    return table[np.arange(table.shape[1]) < used[:, None]].astype(np.uint8), used


def to_bytes(runs: Runs) -> bytes:
    """Return the COCO text of run lengths."""
    return _pack(_deltas(runs))[0].tobytes()


def from_bytes(text: bytes | str) -> Runs:
    """Read the COCO text of run lengths.

    Raises:
        ValueError: a character outside the alphabet, a truncated text, or a negative run.
    """
    raw = np.frombuffer(text.encode() if isinstance(text, str) else text, dtype=np.uint8)
    chunk = raw.astype(np.int64) - 48
    if chunk.size and (chunk.min() < 0 or chunk.max() > 63):
        raise ValueError("an RLE text has a character outside the COCO alphabet")
    last = (chunk & 0x20) == 0
    if chunk.size and not last[-1]:
        raise ValueError("an RLE text ends in the middle of a number")
    stops = np.flatnonzero(last)
    firsts = np.concatenate(([0], stops[:-1] + 1)) if stops.size else stops
    place = np.arange(chunk.size) - np.repeat(firsts, stops - firsts + 1)
    if place.size and place.max() > 11:
        raise ValueError("an RLE text has a number of more than 60 bits")
    parts = (chunk & 0x1F) << (5 * place)
    values = np.add.reduceat(parts, firsts) if stops.size else np.zeros(0, dtype=np.int64)
    negative = (chunk[stops] & 0x10) != 0
    values = np.where(negative, values - (np.int64(1) << (5 * (place[stops] + 1))), values)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.size and values.min() < 0:
        raise ValueError("an RLE text has a negative run length")
    return values


@dataclass(frozen=True, slots=True)
class RLEMasks:
    """The K masks of one image as packed run lengths, in host memory.

    Attributes:
        runs: (T,) int64, run lengths of all masks.
        offsets: (K + 1,) int64; mask k owns ``runs[offsets[k]:offsets[k + 1]]``.
        size: (height, width) of the image.
    """

    runs: Runs
    offsets: Runs
    size: Size

    def __len__(self) -> int:
        return int(self.offsets.size - 1)

    def __getitem__(self, position: int) -> Runs:
        if not 0 <= position < len(self):
            raise IndexError(f"mask {position} of {len(self)}")
        return self.runs[self.offsets[position] : self.offsets[position + 1]]

    def __iter__(self) -> Iterator[Runs]:
        return (self[k] for k in range(len(self)))

    @classmethod
    def from_runs(cls, masks: Iterable[Runs], size: Size) -> RLEMasks:
        """Pack the run lengths of single masks."""
        parts = list(masks)
        offsets = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([p.size for p in parts], out=offsets[1:])
        runs = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return cls(runs.astype(np.int64, copy=False), offsets, (int(size[0]), int(size[1])))

    @classmethod
    def from_dense(cls, masks: npt.NDArray[Any], size: Size | None = None) -> RLEMasks:
        """Encode (K, h, w) masks; ``size`` is needed only if the shape lacks it because K = 0."""
        size = size or (int(masks.shape[1]), int(masks.shape[2]))
        return cls.from_runs((encode(np.asarray(m, dtype=bool)) for m in masks), size)

    @classmethod
    def from_coco(cls, masks: Iterable[CocoRLE], size: Size) -> RLEMasks:
        """Read COCO records.

        Raises:
            ValueError: a record has another size than ``size`` or its text is invalid.
        """
        parts = []
        for number, mask in enumerate(masks):
            if tuple(mask["size"]) != tuple(size):
                raise ValueError(
                    f"mask {number} has size {mask['size']}, the image has {list(size)}"
                )
            parts.append(from_bytes(mask["counts"]))
        return cls.from_runs(parts, size)

    def to_coco(self) -> list[CocoRLE]:
        """Return COCO records with ``counts`` as ASCII text, ready for JSON."""
        if len(self) == 0:
            return []
        deltas = np.concatenate([_deltas(runs) for runs in self])
        characters, used = _pack(deltas)
        stops = np.concatenate(([0], np.cumsum(used)))[self.offsets]
        text = characters.tobytes().decode("ascii")
        return [
            {"size": list(self.size), "counts": text[a:b]}
            for a, b in zip(stops[:-1].tolist(), stops[1:].tolist(), strict=True)
        ]

    def select(self, positions: Sequence[int]) -> RLEMasks:
        """Return the masks at ``positions``, in that order."""
        return RLEMasks.from_runs([self[int(k)] for k in positions], self.size)

    def decode(self) -> BoolArray:
        """Return (K, h, w) bool masks; needs the memory of K full masks, for figures and tests."""
        if len(self) == 0:
            return np.zeros((0, *self.size), dtype=bool)
        return np.stack([decode(runs, self.size) for runs in self])

    def areas(self) -> Runs:
        """Return (K,) int64, foreground pixels per mask."""
        return np.array([area(runs) for runs in self], dtype=np.int64)

    def boxes(self) -> npt.NDArray[np.float32]:
        """Return (K, 4) float32 tight boxes (x1, y1, x2, y2), half-open; zeros for empty masks."""
        boxes = [bounding_box(runs, self.size) for runs in self]
        return np.array(boxes, dtype=np.float32).reshape(-1, 4)
