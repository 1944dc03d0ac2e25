"""Training batches with an equal share of every class and at least two bags per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from datamodules.sampling.keys import EpochBatchSampler

IntArray = npt.NDArray[np.int64]


class _Rounds:
    """Draws from one class in rounds: every bag once before any bag a second time."""

    def __init__(self, members: IntArray, rng: np.random.Generator) -> None:
        self._members, self._rng, self._left = members, rng, members[:0]

    def take(self, count: int) -> IntArray:
        """Return ``count`` bags, all different if the class has at least that many."""
        taken, self._left = self._left[:count], self._left[count:]
        while taken.size < count:
            order = self._rng.permutation(self._members)
            order = order[
                np.argsort(np.isin(order, taken), kind="stable")
            ]  # bags already in the batch last
            missing = count - taken.size
            taken, self._left = np.concatenate([taken, order[:missing]]), order[missing:]
        return taken


class BalancedBatchSampler(EpochBatchSampler):
    """Training batches with equally many bags of every class, at least two each (A123).

    A step of S bags has S / C bags of each of the C classes; the remainder goes to the classes in
    turn. Each process gets its share of every class. If S is below 2 C, a step has two bags of each
    of as many classes as fit, and the classes take turns. A bag is repeated within a step only if
    its class has fewer bags than the step takes of it.

    Args:
        items: numbers of the bags.
        labels: (n,) class of each bag.
        batch_size: bags per step on one process.
        seed: non-negative.
    """

    def __init__(
        self, items: Sequence[int], labels: IntArray, batch_size: int, *, seed: int = 0
    ) -> None:
        super().__init__(items, batch_size, shuffle=True, seed=seed, drop_last=True)
        self._members = [np.flatnonzero(labels == c) for c in np.unique(labels)]

    def _order(self, step: int, rng: np.random.Generator) -> IntArray:
        turns = rng.permutation(len(self._members))
        classes = [_Rounds(members, rng) for members in self._members]
        batches = [turns[:0]]
        for _ in range(self._items.size // step):
            shares, moved = _shares(step, turns)
            turns = np.roll(turns, -moved)
            drawn = [c.take(share) for c, share in zip(classes, shares.tolist(), strict=True)]
            # A process gets a contiguous part: every W-th of the step's bags sorted by class.
            batches.append(np.concatenate(drawn).reshape(self._per_process, -1).T.flatten())
        return np.concatenate(batches)


def _shares(step: int, turns: IntArray) -> tuple[IntArray, int]:
    """Return how many of ``step`` bags each class gets, and how many classes had their turn.

    >>> _shares(7, np.array([1, 2, 0]))
    (array([2, 3, 2]), 1)
    >>> _shares(5, np.array([1, 2, 0]))
    (array([0, 3, 2]), 2)
    """
    several = turns[: max(1, min(turns.size, step // 2))]
    shares = np.zeros(turns.size, dtype=np.int64)
    shares[several] = step // several.size
    more = step % several.size
    shares[several[:more]] += 1
    return shares, more if several.size == turns.size else several.size
