"""Synthetic whole slides: bags of 2 000 to 20 000 instances with known witnesses.

An instance is the sum of tissue and a signature. Tissue x ~ N(m_k + s, I) is one of K kinds, whose
frequencies are drawn per bag (Dirichlet), with a shift s of the whole bag, as from staining. The
signature has two parts, in directions u (first half of the features) and v (second half):

    background   0
    easy         c (u + v)
    hard         h c (u + v)        h < 1, nearer to the background
    confuser     f c u  or  f c v   f ~ U(1, 2)

Only positive bags contain easy and hard instances, the witnesses. Bags of both classes contain
confusers, which look like witnesses in one half of the features and are further from the
background. So the classes cannot be separated by one half of the features or by the distance of an
instance from the background, only by both parts together. In a positive bag 1 to 5 % of the
instances are witnesses: in half of the bags all of them are hard, in the others a random fraction.
In every bag 1 to 5 % are confusers (A176).

A slide depends only on (seed, split, number, class), and the means m_k and u, v only on the seed.
So all splits of a seed share one world, and each seed has a different one.
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
# Bags of a split; `large` is the same as `test` with more bags of both classes.
COUNTS: dict[str, int] = {"train": 60, "test": 40, "large": 100}
_SPLITS = {"train": 0, "test": 1, "large": 2}
_WORLD_PURPOSE, _BAG_PURPOSE, _CUT_PURPOSE = 41, 42, 43


@dataclass(frozen=True, slots=True)
class Slides:
    """Parameters of the slides, with the values of the benchmark as defaults.

    Attributes:
        width: D.
        sizes: smallest and largest bag; the logarithm is uniform.
        share: range of the fraction of witnesses in a positive bag, and of confusers in any bag.
        kinds: K, number of kinds of tissue.
        spread: standard deviation of the entries of m_k.
        shift: standard deviation of the entries of s.
        signal: c.
        hardness: h.
        only_hard: probability that all witnesses of a bag are hard; otherwise the fraction of hard
            witnesses is U(0, 1).
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
        features: (N, D) float16, as in feature files.
        kinds: (N,) kind of each instance, an index into `KINDS`.
        label: 1 if the slide has witnesses.
    """

    features: npt.NDArray[np.float16]
    kinds: npt.NDArray[np.int8]
    label: int

    @property
    def witnesses(self) -> npt.NDArray[np.bool_]:
        """(N,) mask of the witnesses."""
        return self.kinds >= EASY


@dataclass(frozen=True, slots=True)
class World:
    """Parameters shared by all slides of a seed: tissue (K, D), and u and v, each (D,)."""

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
        seed: seed of the world.
        split: split of the slide.
        number: number of the slide in the split.
        label: 0 or 1.
        slides: parameters of the slides.
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
    """Return (N,) the kind of each instance, in random order."""
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
    """Return (N, 2) the signature along u and along v."""
    strength = np.zeros((kinds.size, 2))
    strength[kinds == EASY] = slides.signal
    strength[kinds == HARD] = slides.signal * slides.hardness
    confusers = np.flatnonzero(kinds == CONFUSER)
    part = rng.integers(2, size=confusers.size)
    strength[confusers, part] = slides.signal * rng.uniform(1, 2, size=confusers.size)
    return strength


def class_labels(count: int, negatives: int) -> IntArray:
    """Return (count,) classes with ``negatives`` bags of class 0 per bag of class 1.

    >>> class_labels(60, 10).sum(), class_labels(40, 10).sum(), class_labels(40, 1).sum()
    (5, 4, 20)
    """
    positives = round(count / (1 + negatives))
    return (np.arange(count) < positives).astype(np.int64)


class SlideSet:
    """The slides of a split in memory, with the interface that training needs.

    Args:
        seed: seed of the world.
        split: split of the slides.
        negatives: bags of class 0 per bag of class 1.
        slides: parameters of the slides.
        count: number of slides; None for `COUNTS`.

    Attributes:
        slides: one slide per bag.
        labels: (B,) classes.
        sizes: (B,) numbers of instances.
    """

    num_classes = 2
    task = "binary"
    weights = None
    groups: tuple[str, ...] = ()

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

    def __len__(self) -> int:
        """Return B."""
        return len(self.slides)

    def bag(self, number: int, rows: IntArray | None = None) -> BagBatch:
        """Return a bag in single precision, all of it or the given rows, without the kinds."""
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
        """Return the function with which training reads batches: (numbers, epoch) -> batch.

        Args:
            most: in a training epoch, larger bags are subsampled to this number of instances.
            seed: seed of the subsampling.
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
