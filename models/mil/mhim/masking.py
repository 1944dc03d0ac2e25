"""Masks of MHIM, which hide instances of a bag from the student.

Tang et al., ICCV 2023, arXiv 2307.15254, sections 3.2 and 3.3. Of the N_b instances of a bag,
scored by the teacher, the union of the following is masked:

    random   ceil(r N_b) at random
    low      the ceil(r_l N_b) with the smallest scores
    high     ceil(rho c) at random of the c = ceil(r_h(t) / rho N_b) with the largest scores;
             where r_h(t) / rho > 1 all N_b are candidates and rho is r_h(t)

    r_h(t) = r_h (1 + cos(pi t)) / 2        t the fraction of the training that is done; or r_h

Each number refers to all N_b; the three sets may overlap. A bag is never masked completely: in that
case the instance with the largest score stays.

Letters: N instances of B bags, K heads of attention.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from models.ops.bags.keyed_random import random_order
from models.ops.bags.ragged import segment_sum
from models.ops.masks.instances import (
    HeadFusion,
    ceil_share,
    extreme_instances,
    keep_one,
    random_instances,
)
from structures import BagBatch

RANDOM, HIGH = 0, 1  # streams of random choices under one key


@dataclass(frozen=True)
class MaskRatios:
    """Fractions of a bag's instances that are masked for the student.

    Attributes:
        random: r.
        low: r_l.
        high: r_h, at the start of the training.
        high_drop_share: rho, in (0, 1].
        decay: let r_h fall to 0 over the training.
        fusion: combination of several heads of attention, see `extreme_instances`.

    Raises:
        ValueError: a fraction is out of range.
    """

    random: float = 0.0
    low: float = 0.0
    high: float = 0.0
    high_drop_share: float = 1.0
    decay: bool = True
    fusion: HeadFusion = "vote"

    def __post_init__(self) -> None:
        shares = {"random": self.random, "low": self.low, "high": self.high}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise ValueError(f"masks.{name} is a share in [0, 1), got {share}")
        if not 0 < self.high_drop_share <= 1:
            raise ValueError(f"masks.high_drop_share lies in (0, 1], got {self.high_drop_share}")
        if not any(shares.values()):
            warnings.warn("masks: all shares are 0, so no instance is masked", stacklevel=2)

    def high_at(self, progress: float) -> float:
        """Return r_h(t) after a fraction ``progress`` of the training, in [0, 1]."""
        return self.high * half_cosine(progress) if self.decay else self.high

    def kept(self, scores: Tensor, bags: BagBatch, progress: float, key: int) -> Tensor:
        """Return a mask of the instances that the student sees.

        Args:
            scores: (N,), or (N, K) with one column per head.
            bags: bags of N instances.
            progress: fraction of the training that is done, in [0, 1].
            key: key of the random choices, see `models.ops.bags.keyed_random`.

        Returns:
            (N,) bool, at least one instance of each bag (A115).
        """
        sizes, offsets = bags.sizes(), bags.offsets
        nothing = torch.zeros(scores.shape[0], dtype=torch.bool, device=bags.features.device)
        dropped = nothing
        if self.random > 0:
            order, counts = random_order(bags, key, RANDOM), ceil_share(sizes, self.random)
            dropped = random_instances(~nothing, order, offsets, counts)
        if self.low > 0:
            counts = ceil_share(sizes, self.low)
            dropped = dropped | extreme_instances(scores, offsets, counts, False, self.fusion)
        if self.high > 0:
            dropped = dropped | self._dropped_high(scores, bags, progress, key)
        return keep_one(~dropped, scores, offsets)

    def _dropped_high(self, scores: Tensor, bags: BagBatch, progress: float, key: int) -> Tensor:
        high, drop_share = self.high_at(progress), self.high_drop_share
        share = high / drop_share
        if share > 1:
            share, drop_share = 1.0, high
        counts = ceil_share(bags.sizes(), share)
        candidates = extreme_instances(scores, bags.offsets, counts, True, self.fusion)
        counts = ceil_share(segment_sum(candidates, bags.offsets).long(), drop_share)
        return random_instances(candidates, random_order(bags, key, HIGH), bags.offsets, counts)


def half_cosine(progress: float) -> float:
    """Return (1 + cos(pi progress)) / 2.

    >>> [round(half_cosine(p), 6) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * progress)) / 2
