"""Images of the page with the outlines of their objects and predictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.report.errors import MATCH, DetectionRecord
from evaluation.report.page.content import GalleryImage, Outline
from evaluation.report.page.images import SIDE, encode_image
from evaluation.report.page.judged import Judged, f1, image_key
from evaluation.report.page.mistakes import worst_first
from evaluation.report.page.outlines import TOLERANCE, box_outline, record_outlines

LOWEST = 0.05  # score below which predictions are not drawn, unless the operating point is lower
MOST = 100  # predictions of a run that are drawn in an image, as many as are scored in it

Read = Callable[[Any], npt.NDArray[np.uint8]]


def choose_images(judged: Judged, count: int, seed: int = 0) -> dict[int, str]:
    """Return the images that are shown: half the worst, a quarter each typical and random (A831).

    Images are ordered by F1 of the reference; those of the middle are typical. An image without
    objects and detections has no F1 and can only be drawn at random.

    Args:
        judged: the runs.
        count: how many to show.
        seed: of the random ones.

    Returns:
        Position in the ground truth -> why it was chosen.
    """
    total = len(judged.truth["images"])
    order = worst_first(f1(judged.counts(0)))
    chosen = dict.fromkeys(order[: count - count // 2], "worst")
    middle = len(order) // 2
    nearest = sorted(range(len(order)), key=lambda k: (abs(k - middle), k))
    typical = [order[k] for k in nearest if order[k] not in chosen][: count // 4]
    chosen |= dict.fromkeys(typical, "typical")
    others = [n for n in range(total) if n not in chosen]
    drawn = np.random.default_rng(seed).permutation(len(others))[: count - len(chosen)]
    return chosen | {others[int(k)]: "random" for k in drawn}


def gallery_images(
    judged: Judged, chosen: Mapping[int, str], linked: Collection[int], read: Read
) -> tuple[GalleryImage, ...]:
    """Return the images of the page, the worst first.

    Args:
        judged: the runs.
        chosen: see `choose_images`.
        linked: positions of further images, to which mistakes lead.
        read: returns the (h, w, 3) uint8 pixels of an image by its id.
    """
    values = f1(judged.counts(0))
    wanted = {**chosen} | {n: "mistakes" for n in linked if n not in chosen}
    objects: dict[Any, list[int]] = defaultdict(list)
    for number, annotation in enumerate(judged.truth["annotations"]):
        objects[annotation["image_id"]].append(number)
    order = sorted(wanted, key=lambda n: (np.isnan(values[n]), values[n], n))
    return tuple(
        _image(
            judged, n, objects[judged.truth["images"][n]["id"]], read, _note(values[n], wanted[n])
        )
        for n in order
    )


def _note(value: float, why: str) -> str:
    known = "no objects" if np.isnan(value) else f"F1 {value:.2f}"
    return f"{known}, {why}"


def _image(
    judged: Judged, position: int, numbers: list[int], read: Read, note: str
) -> GalleryImage:
    record = judged.truth["images"][position]
    pixels = read(record["id"])
    height, width = pixels.shape[:2]
    file, mime = encode_image(pixels)
    draw = _Drawer(judged, (height, width))
    runs = range(len(judged.names))
    found = [judged.found(run, position) for run in runs]
    drawn, complete = zip(*(_drawn(judged, run, position) for run in runs), strict=True)
    whole = all(complete)
    return GalleryImage(
        key=image_key(position),
        name=judged.image_names()[position],
        width=width,
        height=height,
        file=file,
        mime=mime,
        truth=tuple(draw.object(n, [n in one for one in found]) for n in numbers),
        predictions=tuple(tuple(draw.detection(run, d) for d in drawn[run]) for run in runs),
        note=note + ("" if whole else f", the {MOST} most confident predictions are drawn"),
    )


def _drawn(judged: Judged, run: int, position: int) -> tuple[list[DetectionRecord], bool]:
    """Return the predictions of an image that are drawn, and whether these are all above `LOWEST`.

    A model that is hardly trained has hundreds of an image, which would make the page slow.
    """
    lowest = min(LOWEST, judged.score)
    found = [d for d in judged.images[run][position].detections if d.score >= lowest]
    kept = {id(d) for d in sorted(found, key=lambda d: -d.score)[:MOST]}
    return [d for d in found if id(d) in kept], len(found) <= MOST


class _Drawer:
    """Outlines of one image."""

    def __init__(self, judged: Judged, size: tuple[int, int]) -> None:
        self._judged, self._size = judged, size
        # Half a pixel of what is shown, which may be smaller than the image.
        self._tolerance = TOLERANCE * max(1.0, max(size) / SIDE)
        ids = sorted(judged.class_names())
        self._label = {identifier: k for k, identifier in enumerate(ids)}

    def object(self, number: int, is_found: Sequence[bool]) -> Outline:
        """Return the outline of an annotation, found or missed by each run (A835)."""
        annotation = self._judged.truth["annotations"][number]
        crowd = bool(annotation.get("iscrowd"))
        kinds = tuple("crowd" if crowd else "found" if one else "miss" for one in is_found)
        return Outline(
            label=self._label[annotation["category_id"]],
            polygons=self._polygons(annotation),
            kind=kinds[0],
            area=float(annotation["area"]),
            kinds=kinds if len(set(kinds)) > 1 else (),
        )

    def detection(self, run: int, d: DetectionRecord) -> Outline:
        """Return the outline of a detection."""
        kind = "correct" if d.kind == MATCH else d.kind
        return Outline(
            label=self._label[d.category_id],
            polygons=self._polygons(self._judged.rows[run][d.row]),
            score=round(d.score, 4),
            kind="ignored" if d.crowd else kind,
            iou=None if d.kind == "bkg" and d.iou == 0 else round(d.iou, 3),
            area=float(d.area),
        )

    def _polygons(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        if self._judged.kind == "bbox":
            return box_outline(record["bbox"])
        return record_outlines(record, self._size, self._tolerance)
