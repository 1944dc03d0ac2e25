"""Predictions of each cell, kept beside the table of cells: what intervals are computed from.

Beside ``cells.csv`` lies ``cells.csv.predictions/MODEL/CORRUPTION_SEVERITY.npz``. Of the
predictions of a cell, it has what the metrics of resampled data sets depend on (A799): image, score
and the matches of each detection, and the objects of each image; no boxes and masks. It is written
before the cell, so that a cell of the table always has its predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zipfile import BadZipFile

import numpy as np

from evaluation.robustness.grid import Place
from evaluation.seg.coco_backends import IOU_THRESHOLDS
from evaluation.seg.coco_scores import AREAS
from evaluation.seg.coco_weighted import ClassMatches, IntArray, Matches
from formats.files import atomic_write

_FORMAT = 1
_SHAPE = len(AREAS), len(IOU_THRESHOLDS)


def kept_folder(cells: Path) -> Path:
    """Return the folder of the predictions of a table."""
    return cells.with_name(f"{cells.name}.predictions")


def kept_file(cells: Path, model: str, place: Place, kind: str = "npz") -> Path:
    """Return the file of the predictions of a cell; any name of a model is a name of a folder.

    Args:
        cells: the table.
        model: name of the model.
        place: corruption and severity.
        kind: ``npz`` for images, ``csv`` for bags.
    """
    return kept_folder(cells) / _safe(model) / f"{_safe(place[0])}_{place[1]}.{kind}"


def _safe(name: str) -> str:
    text = quote(name, safe=" +,=@")
    return text.replace(".", "%2E") if not text.strip(". ") else text


def prepare_folder(cells: Path) -> None:
    """Remove what killed processes have left of unfinished files.

    Raises:
        ValueError: something else has the name of the folder.
    """
    folder = kept_folder(cells)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder, so that predictions cannot be kept; rename it")
    for part in (*folder.glob("*/.*.npz.*"), *folder.glob("*/.*.csv.*")):
        if part.suffix[1:].isdecimal():
            part.unlink(missing_ok=True)


def keep(path: Path, matches: Sequence[Matches]) -> None:
    """Write the predictions of a cell; the file is on the disk as a whole when this returns.

    The same predictions give the same bytes.

    Args:
        path: see `kept_file`.
        matches: of boxes, masks or both.
    """
    arrays: dict[str, Any] = {"format": np.array(_FORMAT)}
    for one in matches:
        arrays |= {f"{one.kind}_{name}": array for name, array in _arrays(one).items()}
    with atomic_write(path, durable=True) as file:
        np.savez_compressed(file, **arrays)


def _arrays(matches: Matches) -> dict[str, Any]:
    """Return the arrays of one kind; detections of all classes follow each other."""
    classes = matches.classes
    scores = _joined([one.scores for one in classes], np.float64)
    single = scores.astype(np.float32)
    flags = {
        name: np.concatenate([np.zeros((*_SHAPE, 0), dtype=bool), *parts], axis=-1)
        for name, parts in (
            ("hits", [one.hits for one in classes]),
            ("alarms", [one.alarms for one in classes]),
        )
    }
    return {
        "caps": np.array(matches.caps),
        "images": np.array(matches.images),
        "counts": np.array([one.scores.size for one in classes], dtype=np.int64),
        "image": _joined([one.image for one in classes], np.int32),
        "scores": single if np.array_equal(single, scores) else scores,
        **{name: np.packbits(flag, axis=-1) for name, flag in flags.items()},
        "positives": np.array([one.positives for one in classes], dtype=np.int32).reshape(
            len(classes), len(AREAS), matches.images
        ),
    }


def _joined(parts: Sequence[Any], kind: type) -> Any:
    return np.concatenate([np.zeros(0), *parts]).astype(kind)


def read_kept(path: Path) -> tuple[Matches, ...]:
    """Return the predictions of a cell.

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["format"]) != _FORMAT:
                raise KeyError("it is of another version of segmil")
            return tuple(
                _matches(kind, {n.removeprefix(f"{kind}_"): file[n] for n in file.files})
                for kind in ("box", "segm")
                if f"{kind}_counts" in file.files
            )
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error


def _matches(kind: str, arrays: dict[str, Any]) -> Matches:
    ends = np.cumsum(arrays["counts"])
    total, images = int(ends[-1]) if ends.size else 0, int(arrays["images"])
    flags = {
        name: np.unpackbits(arrays[name], axis=-1, count=total).astype(bool)
        for name in ("hits", "alarms")
    }
    found = []
    for stop, count, positives in zip(ends, arrays["counts"], arrays["positives"], strict=True):
        part = slice(stop - count, stop)
        image = arrays["image"][part].astype(np.int64)
        found.append(
            ClassMatches(
                image,
                _ranks(image),
                arrays["scores"][part].astype(np.float64),
                flags["hits"][..., part],
                flags["alarms"][..., part],
                positives.astype(np.int64),
            )
        )
    return Matches(kind, tuple(arrays["caps"].tolist()), images, tuple(found))


def _ranks(image: IntArray) -> IntArray:
    """Return how many earlier detections each image has.

    >>> _ranks(np.array([3, 1, 3, 3, 1]))
    array([0, 0, 1, 2, 1])
    """
    order = np.argsort(image, kind="stable")
    ordered = image[order]
    first = np.searchsorted(ordered, ordered, side="left")
    ranks = np.empty_like(image)
    ranks[order] = np.arange(image.size) - first
    return ranks
