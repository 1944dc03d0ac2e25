"""Synthetic whole slides: bags of 2 000 to 20 000 instances whose witnesses are known.

An instance is tissue plus a signature. Tissue x ~ N(m_k + s, I) is of one of K kinds, with shares
of its own in every bag (Dirichlet) and a shift s of the whole bag, as stains have. The signature
has two parts, in directions u (first half of the features) and v (second half):

    background   0
    easy         c (u + v)
    hard         h c (u + v)        h < 1, nearer to the background
    confuser     f c u  or  f c v   f ~ U(1, 2)

Only positive bags hold easy and hard instances, the witnesses; bags of both classes hold
confusers, which in one half of the features look like witnesses and stand out further. So neither
half of the features, nor how far an instance lies out, tells the classes apart; both parts at once
do. In a positive bag 1 to 5 % are witnesses: half of the bags have hard ones alone, in the others a
share drawn for the bag is hard. In every bag 1 to 5 % are confusers (A176).

Everything depends on (seed, split, number, class) alone; means m_k and u, v on the seed, so that
splits of a seed are of one world and no two seeds are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datamodules.sampling.keys import keyed_generator
from structures import BagBatch

Split = Literal["train", "test", "large"]
IntArray = npt.NDArray[np.int64]

BACKGROUND, CONFUSER, EASY, HARD = 0, 1, 2, 3
KINDS = ("background", "confuser", "easy witness", "hard witness")
# Bags of a split; `large` is as `test`, with more bags of both classes.
COUNTS: dict[str, int] = {"train": 60, "test": 40, "large": 100}
_SPLITS = {"train": 0, "test": 1, "large": 2}
_WORLD_PURPOSE, _BAG_PURPOSE, _CUT_PURPOSE = 41, 42, 43


@dataclass(frozen=True, slots=True)
class Slides:
    """How slides are drawn; the defaults are those of the benchmark.

    Attributes:
        width: D.
        sizes: smallest and largest bag; the logarithm is uniform.
        share: smallest and largest share of witnesses in a positive bag, and of confusers in any.
        kinds: K, kinds of tissue.
        spread: standard deviation of the entries of m_k.
        shift: that of the entries of s.
        signal: c.
        hardness: h.
        only_hard: chance that all witnesses of a bag are hard; else their share is U(0, 1).
    """

    width: int = 64
    sizes: tuple[int, int] = (2_000, 20_000)
    share: tuple[float, float] = (0.01, 0.05)
    kinds: int = 6
    spread: float = 0.2
    shift: float = 0.05
    signal: float = 5.0
    hardness: float = 0.4
    only_hard: float = 0.5


@dataclass(frozen=True, slots=True)
class Slide:
    """One bag.

    Attributes:
        features: (N, D) float16, as feature files are.
        kinds: (N,) what each instance is, a place in `KINDS`.
        label: 1 where there are witnesses.
    """

    features: npt.NDArray[np.float16]
    kinds: npt.NDArray[np.int8]
    label: int

    @property
    def witnesses(self) -> npt.NDArray[np.bool_]:
        """(N,) which instances are witnesses."""
        return self.kinds >= EASY


@dataclass(frozen=True, slots=True)
class World:
    """What all slides of a seed have in common: tissue (K, D), and u and v, each (D,)."""

    tissue: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]


def make_world(seed: int, slides: Slides) -> World:
    """Return the world of a seed."""
    rng = keyed_generator(_WORLD_PURPOSE, seed)
    half = slides.width // 2
    tissue = slides.spread * rng.normal(size=(slides.kinds, slides.width))
    parts = np.zeros((2, slides.width))
    parts[0, :half], parts[1, half:] = rng.normal(size=half), rng.normal(size=slides.width - half)
    first, second = parts / np.linalg.norm(parts, axis=1, keepdims=True)
    return World(tissue, first, second)


def make_slide(seed: int, split: Split, number: int, label: int, slides: Slides) -> Slide:
    """Return one slide.

    Args:
        seed: of the world.
        split: whose slide.
        number: in the split.
        label: 0 or 1.
        slides: how they are drawn.
    """
    world = make_world(seed, slides)
    rng = keyed_generator(_BAG_PURPOSE, seed, _SPLITS[split], number, label)
    size = round(math.exp(rng.uniform(*np.log(slides.sizes))))
    shares = rng.dirichlet(np.ones(slides.kinds))
    values = rng.normal(size=(size, slides.width))
    values += world.tissue[rng.choice(slides.kinds, size, p=shares)]
    values += slides.shift * rng.normal(size=slides.width)
    kinds = _kinds(rng, size, label, slides)
    strength = _strength(rng, kinds, slides)
    values += strength[:, :1] * world.first + strength[:, 1:] * world.second
    return Slide(values.astype(np.float16), kinds, label)


def _kinds(rng: np.random.Generator, size: int, label: int, slides: Slides) -> npt.NDArray[np.int8]:
    """Return (N,) what each instance is, in random order."""
    confusers = max(1, round(size * rng.uniform(*slides.share)))
    witnesses = max(1, round(size * rng.uniform(*slides.share))) if label else 0
    mixed = rng.uniform() >= slides.only_hard
    hard = round(witnesses * rng.uniform()) if mixed else witnesses
    counts = [size - confusers - witnesses, confusers, witnesses - hard, hard]
    kinds: npt.NDArray[np.int8] = rng.permutation(np.repeat(np.arange(4, dtype=np.int8), counts))
    return kinds


def _strength(
    rng: np.random.Generator, kinds: npt.NDArray[np.int8], slides: Slides
) -> npt.NDArray[np.float64]:
    """Return (N, 2) what is added along u and along v."""
    strength = np.zeros((kinds.size, 2))
    strength[kinds == EASY] = slides.signal
    strength[kinds == HARD] = slides.signal * slides.hardness
    confusers = np.flatnonzero(kinds == CONFUSER)
    part = rng.integers(2, size=confusers.size)
    strength[confusers, part] = slides.signal * rng.uniform(1, 2, size=confusers.size)
    return strength


def class_labels(count: int, negatives: int) -> IntArray:
    """Return (count,) classes with ``negatives`` bags of class 0 to one of class 1.

    >>> class_labels(60, 10).sum(), class_labels(40, 10).sum(), class_labels(40, 1).sum()
    (5, 4, 20)
    """
    positives = round(count / (1 + negatives))
    return (np.arange(count) < positives).astype(np.int64)


class SlideSet:
    """The slides of a split in memory, with what training asks of a set of bags.

    Args:
        seed: of the world.
        split: which slides.
        negatives: bags of class 0 to one of class 1.
        slides: how they are drawn.
        count: how many, None for `COUNTS`.

    Attributes:
        slides: one a bag.
        labels: (B,) classes.
        sizes: (B,) instances.
    """

    num_classes = 2
    task = "binary"
    weights = None

    def __init__(
        self,
        seed: int,
        split: Split,
        negatives: int,
        slides: Slides = Slides(),
        count: int | None = None,
    ) -> None:
        self.labels = class_labels(COUNTS[split] if count is None else count, negatives)
        self.slides = [
            make_slide(seed, split, number, label, slides)
            for number, label in enumerate(self.labels.tolist())
        ]
        self.sizes = np.array([slide.kinds.size for slide in self.slides])
        self.split, self.in_features = split, slides.width

    def bag(self, number: int, rows: IntArray | None = None) -> BagBatch:
        """Return a bag in single precision, all of it or the given rows; without its truth."""
        values = self.slides[number].features
        features = torch.from_numpy((values if rows is None else values[rows]).astype(np.float32))
        return BagBatch(
            features=features,
            offsets=torch.tensor([0, len(features)]),
            labels=torch.from_numpy(self.labels[number : number + 1]),
            index=torch.tensor([number]),
            bag_ids=(f"{self.split} {number}",),
            instance_index=None if rows is None else torch.from_numpy(rows),
        )

    def reader(self, most: int | None, seed: int) -> Any:
        """Return what training reads bags with: (numbers, epoch) to a batch.

        Args:
            most: in an epoch, larger bags are cut to a random part of so many instances.
            seed: of the choice.
        """

        def read(numbers: Sequence[int], epoch: int | None) -> BagBatch:
            return BagBatch.collate(
                [self.bag(n, self._rows(n, epoch, most, seed)) for n in numbers]
            )

        return read

    def _rows(self, number: int, epoch: int | None, most: int | None, seed: int) -> IntArray | None:
        size = int(self.sizes[number])
        if epoch is None or most is None or size <= most:
            return None
        rng = keyed_generator(_CUT_PURPOSE, seed, epoch, number)
        rows: IntArray = np.sort(rng.choice(size, most, replace=False))
        return rows
