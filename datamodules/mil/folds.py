"""Stratified folds and splits of bags, by patient if patients are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datamodules.sampling.keys import keyed_generator

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_FOLD_PURPOSE = 3
_HOLD_OUT_PURPOSE = 4


def stratified_folds(
    labels: IntArray, num_folds: int, seed: int, repeat: int = 0, groups: Sequence[str] = ()
) -> IntArray:
    """Divide bags into folds of equal size and equal class shares.

    The bags of each class are dealt to the folds in turn, in an order drawn from (seed, repeat).
    If groups are given, groups are dealt instead, stratified by the set of their classes. With
    several classes per bag, bags or groups are stratified by `strata`.

    Args:
        labels: (B,) classes, or (B, C) zeros and ones.
        num_folds: K, at least 2.
        seed: non-negative.
        repeat: non-negative; every repeat is a different division.
        groups: (B,) the patient of each bag, or empty.

    Returns:
        (B,) fold of each bag, in [0, K).

    Raises:
        ValueError: fewer than two folds, or fewer bags (or groups) than folds.
    """
    unit, kind = _units(labels, groups)
    if not 2 <= num_folds <= kind.size:
        what = "groups" if groups else "bags"
        raise ValueError(f"need 2 to {kind.size} folds for {kind.size} {what}, got {num_folds}")
    order = _dealing_order(kind, keyed_generator(_FOLD_PURPOSE, seed, repeat))
    fold = np.empty(kind.size, dtype=np.int64)
    fold[order] = np.arange(kind.size) % num_folds
    return fold[unit]


def hold_out(
    labels: IntArray, fraction: float, key: Sequence[int], groups: Sequence[str] = ()
) -> BoolArray:
    """Choose a share of the bags, equal for every class.

    Args:
        labels: (B,) classes, or (B, C) zeros and ones, see `stratified_folds`.
        fraction: share to choose, in [0, 1).
        key: non-negative numbers that seed the choice.
        groups: (B,) the patient of each bag, or empty; all bags of a group are chosen together.

    Returns:
        (B,) True where chosen: floor(fraction x number of bags, or of groups) of them, or fewer if
        a class (a stratum of groups) would have none left: at least one of each remains.

    Raises:
        ValueError: a fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"a held-out share must be in [0, 1), got {fraction}")
    unit, kind = _units(labels, groups)
    order = _dealing_order(kind, keyed_generator(_HOLD_OUT_PURPOSE, *key))
    # Evenly spaced positions in an order sorted by class: every share is exact up to one bag.
    mark = np.floor(np.arange(kind.size + 1) * fraction + 1e-9)
    chosen = np.zeros(kind.size, dtype=bool)
    chosen[order] = np.diff(mark) > 0
    for stratum in np.unique(kind):
        members = np.flatnonzero(kind == stratum)
        if chosen[members].all():
            chosen[members[0]] = False
    return chosen[unit]


def _units(labels: IntArray, groups: Sequence[str]) -> tuple[IntArray, IntArray]:
    """Return the unit of each bag (B,) and the stratum of each unit (U,)."""
    if not groups:
        kinds = np.unique(strata(labels), return_inverse=True)[1]
        return np.arange(len(labels)), kinds.astype(np.int64)
    unit = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    if labels.ndim == 2:
        union = np.zeros((int(unit.max()) + 1, labels.shape[1]), dtype=np.int64)
        np.maximum.at(union, unit, labels)
        return unit, strata(union)
    held: dict[int, set[int]] = {}
    for number, label in zip(unit.tolist(), labels.tolist(), strict=True):
        held.setdefault(number, set()).add(label)
    classes = [tuple(sorted(held[number])) for number in range(len(held))]
    sets = sorted(set(classes))
    return unit, np.array([sets.index(c) for c in classes], dtype=np.int64)


def strata(labels: IntArray) -> IntArray:
    """Return (B,) one class of each bag.

    With several classes per bag it is the rarest that the bag has, or C for a bag with none, so
    that the bags of a rare class are divided as evenly as those of a frequent one  # A400

    >>> strata(np.array([[1, 0], [1, 1], [0, 0], [1, 0]])).tolist()
    [0, 1, 2, 0]

    Args:
        labels: (B,) classes, or (B, C) zeros and ones.
    """
    if labels.ndim == 1:
        return labels
    rarest_first = np.argsort((labels == 1).sum(axis=0), kind="stable")
    has = labels[:, rarest_first] == 1
    chosen: IntArray = np.where(
        has.any(axis=1), rarest_first[has.argmax(axis=1)], labels.shape[1]
    ).astype(np.int64)
    return chosen


def classes_in(labels: IntArray) -> set[int]:
    """Return the classes that bags have.

    Args:
        labels: (B,) classes, or (B, C) zeros and ones.
    """
    if labels.ndim == 2:
        labels = np.flatnonzero((labels == 1).any(axis=0))
    return set(labels.tolist())


def _dealing_order(kind: IntArray, rng: np.random.Generator) -> IntArray:
    """Return the units sorted by stratum, shuffled within each."""
    shuffled = rng.permutation(kind.size)
    return shuffled[np.argsort(kind[shuffled], kind="stable")]
