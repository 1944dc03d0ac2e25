"""Shifts of bags at five severities: what other scanners, tissue and extraction do to features.

=====================  ============================================  ==========================
shift                  what happens to a bag                         strength at severities 1-5
=====================  ============================================  ==========================
feature_noise          x + s d z, z normal, per instance and feature  s: .1 .25 .5 1 2
feature_gain           m + exp(s z) (x - m) + s d z', per feature     s: .05 .1 .2 .35 .5
missing_instances      a share of the instances is lost              .1 .3 .5 .7 .9
duplicate_instances    a tenth of the instances has copies           1 2 4 8 16 copies
mean_features          a share of the features becomes m             .1 .3 .5 .7 .9
=====================  ============================================  ==========================

m and d are mean and standard deviation of a feature over instances, see `FeatureUnits`. Constants
are our own (A806), and so is what duplicates are (A814). Shapes: n instances of a bag with features
(n, ...), usually (n, D).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from structures import BagBatch
from structures.own_functions import changed_by

FloatArray = npt.NDArray[np.float32]

STRENGTHS: dict[str, tuple[float, ...]] = {
    "feature_noise": (0.1, 0.25, 0.5, 1.0, 2.0),  # training deviations
    "feature_gain": (0.05, 0.1, 0.2, 0.35, 0.5),
    "missing_instances": (0.1, 0.3, 0.5, 0.7, 0.9),
    "duplicate_instances": (1, 2, 4, 8, 16),  # copies
    "mean_features": (0.1, 0.3, 0.5, 0.7, 0.9),
}
SHIFTS = tuple(STRENGTHS)
NEED_UNITS = frozenset({"feature_noise", "feature_gain", "mean_features"})
DUPLICATED = 0.1  # share of the instances that have copies


class FeatureUnits(NamedTuple):
    """Mean and standard deviation of each feature, the origin and unit of shifts.

    Attributes:
        mean: (...), the shape of an instance.
        std: (...), not negative; a constant feature has 0 and is not moved by noise.
        limit: largest absolute value of a feature, which a standardisation clips to; or None.
    """

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    limit: float | None = None


class RunningUnits:
    """Mean and standard deviation of the instances of many bags, of which one is in memory.

    Means and sums of squares of the parts are combined as by Chan et al. (1979), so that a mean far
    from 0 costs no digits.
    """

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, np.zeros(()), np.zeros(())

    def add(self, features: Tensor) -> None:
        """Add instances (n, ...); none is allowed."""
        for start in range(0, len(features), 4096):  # little is in double precision at a time
            values = features[start : start + 4096].double().numpy()
            count, mean = len(values), values.mean(axis=0)
            squares = np.square(values - mean).sum(axis=0)
            total, apart = self._count + count, mean - self._mean
            self._mean = self._mean + apart * (count / total)
            self._squares = self._squares + squares
            self._squares = self._squares + np.square(apart) * (self._count * count / total)
            self._count = total

    def units(self) -> FeatureUnits:
        """Return the statistics of all instances so far."""
        return FeatureUnits(self._mean, np.sqrt(self._squares / max(self._count, 1)))


def shift_bag(
    bag: BagBatch, name: str, severity: int, seed: int, units: FeatureUnits | None = None
) -> BagBatch:
    """Return a shifted copy of a bag; its label stays.

    The same arguments give the same bag in every process. Instances keep their order, and a bag
    keeps at least one.

    Args:
        bag: one bag with at least one instance.
        name: a name of `SHIFTS`, or the dotted name of a function of one's own,
            ``function(features, severity, rng)``, which returns features of the same shape and
            type, float32.
        severity: 1 to 5.
        seed: 0 to 2**32 - 1; of this bag, shift and severity.
        units: of the features; for `NEED_UNITS`.

    Returns:
        The bag. Features that are changed are float32, others have the precision that they had.

    Raises:
        ValueError: there is no such shift, it needs units, or one's own function returns something
            else or values that are not finite.
    """
    if "." in name:
        return _by_own(bag, name, severity, seed)
    if name not in SHIFTS:
        raise ValueError(f"there is no shift {name!r}; there are {', '.join(SHIFTS)}")
    strength, rng = STRENGTHS[name][severity - 1], np.random.default_rng(seed)
    if name in NEED_UNITS:
        if units is None:
            raise ValueError(f"{name} needs mean and deviation of the features")
        shifted = _FEATURES[name](_copied(bag.features), units, strength, rng)
        if units.limit is not None:
            np.clip(shifted, -units.limit, units.limit, out=shifted)
        return dataclasses.replace(bag, features=torch.from_numpy(shifted))
    return instances(bag, torch.from_numpy(_ROWS[name](len(bag.features), strength, rng)))


def _by_own(bag: BagBatch, name: str, severity: int, seed: int) -> BagBatch:
    found = changed_by(name, _copied(bag.features), severity, seed)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} at severity {severity} returned features that are not finite")
    return dataclasses.replace(bag, features=torch.from_numpy(found))


def instances(bag: BagBatch, rows: Tensor) -> BagBatch:
    """Return a bag of chosen instances, which may repeat, as if there had never been others.

    Args:
        bag: one bag.
        rows: (k,) int64, positions of instances in the bag.
    """
    coords, known = bag.coords, bag.instance_labels
    return dataclasses.replace(
        bag,
        features=bag.features[rows],
        offsets=bag.offsets.new_tensor([0, len(rows)]),
        coords=None if coords is None else coords[rows],
        instance_labels=None if known is None else known[rows],
        instance_index=None,
    )


def _copied(features: Tensor) -> FloatArray:
    single = features.to(torch.float32)  # a copy, unless they are that already
    copied: FloatArray = (single.clone() if single is features else single).numpy()
    return copied


def _noise(
    values: FloatArray, units: FeatureUnits, strength: float, rng: np.random.Generator
) -> FloatArray:
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    noise *= (strength * units.std).astype(np.float32)
    values += noise
    return values


def _gain(
    values: FloatArray, units: FeatureUnits, strength: float, rng: np.random.Generator
) -> FloatArray:
    drawn = rng.standard_normal((2, *values.shape[1:]))  # A812
    gain, offset = np.exp(strength * drawn[0]), strength * drawn[1] * units.std
    values *= gain.astype(np.float32)
    values += (units.mean * (1 - gain) + offset).astype(np.float32)
    return values


def _replaced(
    values: FloatArray, units: FeatureUnits, strength: float, rng: np.random.Generator
) -> FloatArray:
    flat = values.reshape(len(values), -1)
    chosen = _some(rng, flat.shape[1], strength)
    flat[:, chosen] = units.mean.reshape(-1)[chosen].astype(np.float32)
    return flat.reshape(values.shape)


def _kept(count: int, strength: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    lost = min(_rounded(strength * count), count - 1)
    return np.sort(rng.permutation(count)[lost:])


def _repeated(count: int, strength: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    times = np.ones(count, dtype=np.int64)
    times[_some(rng, count, DUPLICATED)] += int(strength)
    return np.repeat(np.arange(count), times)


def _some(rng: np.random.Generator, count: int, part: float) -> npt.NDArray[np.int64]:
    """Return a share of the numbers below ``count``, at least one."""
    return rng.permutation(count)[: max(1, _rounded(part * count))]


def _rounded(value: float) -> int:
    return int(value + 0.5 + 1e-9)  # 0.3 * 5 lies below 1.5


_FEATURES: dict[str, Callable[..., FloatArray]] = {
    "feature_noise": _noise,
    "feature_gain": _gain,
    "mean_features": _replaced,
}
_ROWS: dict[str, Callable[..., npt.NDArray[np.int64]]] = {
    "missing_instances": _kept,
    "duplicate_instances": _repeated,
}


def units_of(data: Any) -> FeatureUnits | None:
    """Return the units of bags that a datamodule standardises, else None.

    Standardised features have mean 0 and deviation 1, those that were constant in training 0.

    Args:
        data: a datamodule; one that standardises has ``standardisation``.
    """
    known = getattr(data, "standardisation", None)
    if known is None:
        return None
    return FeatureUnits(np.zeros(known.mean.shape), (known.std > 0).astype(float), known.limit)
