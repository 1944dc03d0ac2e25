"""The AP50 gained if each kind of error were fixed, from the records of `errors.detection_errors`.

Bolya et al., "TIDE" (ECCV 2020), section 2.2. What it means to fix an error:

- ``cls``, ``loc``: the detection becomes a match of the object that it is judged by; of several
  errors at one object the one of highest score, and the others are removed, as are all where the
  object has a match.
- ``both``, ``dupe``, ``bkg``: the detection is removed.
- ``miss``: the object is removed from what can be found.
- ``fp``: no false positive comes before a match. ``fn``: what is not found is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MATCH = "match"
KINDS = ("cls", "loc", "both", "dupe", "bkg", "miss")
FIXES = (*KINDS, "fp", "fn")
SIZES = ("small", "medium", "large")  # of COCO: up to 32^2, up to 96^2, above


class DetectionRecord(NamedTuple):
    """A detection and its kind.

    Attributes:
        row: its position in the results.
        category_id: its predicted category.
        score: its score.
        kind: ``match``, ``cls``, ``loc``, ``both``, ``dupe`` or ``bkg``.
        truth: position in ``ground_truth["annotations"]`` of the object that the kind is about
            (matched, near, of the other class, found already, overlapped most); None for ``bkg``.
        iou: IoU with that object; for ``bkg`` the largest with any object.
        area: area in square pixels, of the mask or of the box.
        truth_category_id: category of the object, None for ``bkg``.
        truth_area: ``area`` of the object's annotation, None for ``bkg``.
        crowd: whether it has no match and lies in a crowd region of its class, so that it counts
            in no AP. It has a kind nevertheless; lists of errors should leave it out.
        fixable: whether fixing its kind makes it the match of its object.
    """

    row: int
    category_id: int
    score: float
    kind: str
    truth: int | None
    iou: float
    area: float
    truth_category_id: int | None
    truth_area: float | None
    crowd: bool
    fixable: bool

    @property
    def size(self) -> str:
        """``small``, ``medium`` or ``large``: of the object for ``cls`` and ``loc``."""
        if self.kind in ("cls", "loc") and self.truth_area is not None:
            return size_name(self.truth_area)
        return size_name(self.area)


class ObjectRecord(NamedTuple):
    """An object of the ground truth, not a crowd region, and whether it was found.

    Attributes:
        truth: its position in ``ground_truth["annotations"]``.
        category_id: its category.
        kind: ``match`` if it was found, ``cls`` or ``loc`` if a detection with this error would
            find it, ``miss`` if nothing does.
        row: position in the results of that detection, None for ``miss``.
        iou: IoU with that detection; for ``miss`` the largest with any detection.
        area: ``area`` of its annotation in square pixels.
    """

    truth: int
    category_id: int
    kind: str
    row: int | None
    iou: float
    area: float

    @property
    def size(self) -> str:
        """``small``, ``medium`` or ``large``."""
        return size_name(self.area)


class ImageErrors(NamedTuple):
    """What is right and wrong in one image.

    Attributes:
        image_id: id of the image.
        detections: its detections by descending score.
        objects: its objects in the order of the ground truth.
    """

    image_id: Any
    detections: tuple[DetectionRecord, ...]
    objects: tuple[ObjectRecord, ...]

    @property
    def missed(self) -> tuple[ObjectRecord, ...]:
        """The objects that nothing found."""
        return tuple(o for o in self.objects if o.kind == "miss")


class ErrorSummary(NamedTuple):
    """Errors of a data set.

    Attributes:
        ap50: AP at IoU .5, in [0, 1], with the cap on detections per image; mean over the classes
            that have objects, NaN without objects.
        gains: AP50 gained by fixing each of ``FIXES``, in [0, 1]; NaN where nothing is left to
            score. They do not add up: after one kind is fixed another may cost more or less.
        counts: number of errors of each of ``KINDS``.
        by_class: for each category id its ``ap50``, ``gains`` and ``counts``: an error counts
            for the class of the detection, a missed object for its own. NaN without objects.
        by_size: for each of ``SIZES`` its ``gains`` of the AP50 over all sizes, if only the
            errors of that size were fixed, and its ``counts``. (A825)
    """

    ap50: float
    gains: dict[str, float]
    counts: dict[str, int]
    by_class: dict[int, dict[str, Any]]
    by_size: dict[str, dict[str, Any]]


def size_name(area: float) -> str:
    """Return the size range of COCO.

    >>> size_name(32**2), size_name(96**2), size_name(96**2 + 1)
    ('small', 'medium', 'large')

    Args:
        area: square pixels.
    """
    return SIZES[int(area > 32**2) + int(area > 96**2)]


def summarise_errors(categories: Sequence[int], images: Sequence[ImageErrors]) -> ErrorSummary:
    """Return the counts and gains of all errors, by class and by size.

    Args:
        categories: all category ids.
        images: see `evaluation.report.errors.detection_errors`.
    """
    table = _table(categories, images)
    everything = np.ones(len(SIZES), dtype=bool)
    before = table.ap(*table.points(), table.positives())
    after = {fix: table.fixed(fix, everything) for fix in FIXES}
    by_class = {}
    for k, category in enumerate(table.categories):
        gains = {fix: _gain(fix, before[k], values[k]) for fix, values in after.items()}
        counts = table.counts((table.category == k), (table.object_category == k))
        by_class[category] = {"ap50": float(before[k]), "gains": gains, "counts": counts}
    by_size = {}
    for number, size in enumerate(SIZES):
        chosen = np.arange(len(SIZES)) == number
        gains = {fix: _gain(fix, _mean(before), _mean(table.fixed(fix, chosen))) for fix in FIXES}
        counts = table.counts(table.size == number, table.object_size == number)
        by_size[size] = {"gains": gains, "counts": counts}
    all_of = (np.ones(len(a), dtype=bool) for a in (table.kind, table.object_kind))
    return ErrorSummary(
        ap50=_mean(before),
        gains={fix: _gain(fix, _mean(before), _mean(values)) for fix, values in after.items()},
        counts=table.counts(*all_of),
        by_class=by_class,
        by_size=by_size,
    )


class _Table(NamedTuple):
    """All P detections and all Q objects.

    Attributes:
        categories: K category ids, ascending.
        category: (P,) place of the category in ``categories``.
        score: (P,).
        kind: (P,) text.
        crowd: (P,) bool.
        fixable: (P,) bool.
        target: (P,) place of the category of the object, that of the detection without one.
        size: (P,) place in ``SIZES``.
        object_category: (Q,).
        object_kind: (Q,) text.
        object_size: (Q,).
    """

    categories: tuple[int, ...]
    category: IntArray
    score: FloatArray
    kind: npt.NDArray[np.str_]
    crowd: BoolArray
    fixable: BoolArray
    target: IntArray
    size: IntArray
    object_category: IntArray
    object_kind: npt.NDArray[np.str_]
    object_size: IntArray

    def positives(self, removed: BoolArray | None = None) -> IntArray:
        """Return (K,) the number of objects of each class."""
        kept = self.object_category if removed is None else self.object_category[~removed]
        return np.bincount(kept, minlength=len(self.categories)).astype(np.int64)

    def points(self) -> tuple[IntArray, FloatArray, BoolArray]:
        """Return category, score and correctness of the detections that count."""
        held = ~self.crowd
        return self.category[held], self.score[held], self.kind[held] == MATCH

    def fixed(self, fix: str, sizes: BoolArray) -> FloatArray:
        """Return (K,) AP50 with one kind of error fixed.

        Args:
            fix: one of ``FIXES``.
            sizes: (3,) bool, the sizes whose errors are fixed.
        """
        wrong = self.kind != MATCH
        chosen = wrong & sizes[self.size] & ((self.kind == fix) | (fix == "fp"))
        # A false positive behind all matches does not count, so that it may as well be removed.
        made = chosen & self.fixable & (fix != "fp")
        kept = (~chosen & ~self.crowd) | made
        category = np.where(made, self.target, self.category)
        right = ~wrong | made
        # Of equal scores the errors come first, as in the authors' code.  # A821
        order = np.concatenate((np.flatnonzero(kept & wrong), np.flatnonzero(kept & ~wrong)))
        lost = (self.object_kind == "miss") if fix == "miss" else (self.object_kind != MATCH)
        lost = lost & sizes[self.object_size] & (fix in ("miss", "fn"))
        return self.ap(category[order], self.score[order], right[order], self.positives(lost))

    def ap(
        self, category: IntArray, score: FloatArray, right: BoolArray, positives: IntArray
    ) -> FloatArray:
        """Return (K,) AP50; NaN for a class that never had an object, or has nothing left."""
        found = np.full(len(self.categories), np.nan)
        place = np.argsort(category, kind="stable")
        edges = np.searchsorted(category[place], np.arange(len(self.categories) + 1))
        for k in np.flatnonzero(self.positives()):  # not a class without objects  # A820
            own = place[edges[k] : edges[k + 1]]
            if own.size or positives[k]:
                found[k] = average_precision(score[own], right[own], int(positives[k]))
        return found

    def counts(self, chosen: BoolArray, objects: BoolArray) -> dict[str, int]:
        """Return the number of errors by kind among the chosen detections and objects."""
        found = {kind: int((self.kind[chosen] == kind).sum()) for kind in KINDS[:-1]}
        return {**found, "miss": int((self.object_kind[objects] == "miss").sum())}


def _table(categories: Sequence[int], images: Sequence[ImageErrors]) -> _Table:
    detections = [d for image in images for d in image.detections]
    objects = [o for image in images for o in image.objects]
    known = tuple(sorted(set(categories) | {d.category_id for d in detections}))
    place = {category: k for k, category in enumerate(known)}
    target = [d.category_id if d.truth_category_id is None else d.truth_category_id
              for d in detections]  # fmt: skip
    return _Table(
        categories=known,
        category=np.array([place[d.category_id] for d in detections], dtype=np.int64),
        score=np.array([d.score for d in detections], dtype=np.float64),
        kind=np.array([d.kind for d in detections], dtype=np.str_),
        crowd=np.array([d.crowd for d in detections], dtype=bool),
        fixable=np.array([d.fixable for d in detections], dtype=bool),
        target=np.array([place[c] for c in target], dtype=np.int64),
        size=np.array([SIZES.index(d.size) for d in detections], dtype=np.int64),
        object_category=np.array([place[o.category_id] for o in objects], dtype=np.int64),
        object_kind=np.array([o.kind for o in objects], dtype=np.str_),
        object_size=np.array([SIZES.index(o.size) for o in objects], dtype=np.int64),
    )


def average_precision(score: FloatArray, right: BoolArray, positives: int) -> float:
    """Return the mean of the precision interpolated at the recalls 0, .01, ..., 1.

    Args:
        score: (P,); equal scores keep their order.
        right: (P,) whether each detection is a match.
        positives: number of objects; 0 gives 0.
    """
    if positives == 0 or score.size == 0:
        return 0.0
    hits = np.cumsum(right[np.argsort(-score, kind="stable")])
    precision = hits / np.arange(1, score.size + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / positives, np.arange(101) / 100, side="left")
    return float(np.append(envelope, 0.0)[reached].mean())


def _mean(values: FloatArray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def _gain(fix: str, before: float, after: float) -> float:
    """Return the gain; that of a kind is at least 0, as ties in score may reduce it (A821)."""
    gain = float(after - before)
    return max(gain, 0.0) if fix in KINDS and not np.isnan(gain) else gain
