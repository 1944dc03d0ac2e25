"""Bags for which violating the assumption of multiple-instance learning is the easier solution.

Raff & Holt, "Reproducibility in Multiple Instance Learning: A Case For Algorithmic Unit Tests",
NeurIPS 2023. Training bags contain a shortcut that is reversed in the test bags, so that a model
that learnt it ranks the test bags the wrong way round. Instances are drawn from N(mean, standard
deviation) in each of D coordinates, independently; background from N(0, 1). Half of the bags are
positive. Number of instances of each kind in a bag (ranges include both ends):

    1  one concept decides            poison N(-10, 0.1)  indicator N(0, 3)        background
       train negative                 1                   0                        1..9
       train positive                 0                   1..3                     1..4
       test negative                  0                   0                        1..9
       test positive                  1                   1..3                     1..4
       shortcut: "no poison, so positive"

    2  two concepts together          poison N(-10, 0.1)  A N(2, 0.1), B N(3, 0.1) background
       train negative                 1                   one, of A or of B        1..4
       train positive                 1 with chance 0.1   1..4 and 1..4            1..4
       test negative                  0                   one, of A or of B        1..4
       test positive                  1                   1..4 and 1..4            1..4
       shortcut: "poison, so negative"

    3  presence, not frequency                            A N(-2, 0.1), B N(2, 0.1) background
       train negative                                     one, of A or of B         1..9
       positive                                           1 and 1                   1..9
       test negative                                      35..39 of A, or (5/9) B   1..9
       shortcut: "many hits, so positive"

Bags are filled up with background to one size, so that their size carries no information. The
mixed indicator described for the first test and a variant of the second test are options
(A155, A156). Instances are in random order (A157).

Letters: N instances of B bags, D features.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TestNumber = Literal[1, 2, 3]
Split = Literal["train", "test"]
Indicator = Literal["subtle", "mixed"]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BACKGROUND, POISON, FIRST, SECOND = range(4)
_PURPOSE = 55  # separates these random streams from others of the same seed
# Mean and standard deviation of each kind of instance, by test.
_GAUSSIANS = {
    1: ((0.0, 1.0), (-10.0, 0.1), (0.0, 3.0), (0.0, 0.0)),
    2: ((0.0, 1.0), (-10.0, 0.1), (2.0, 0.1), (3.0, 0.1)),
    3: ((0.0, 1.0), (0.0, 0.0), (-2.0, 0.1), (2.0, 0.1)),
}
_OBVIOUS = (1.0, 1.0)  # the other indicator of test 1
_NAMES = {
    1: ("background", "poison", "indicator", ""),
    2: ("background", "poison", "concept A", "concept B"),
    3: ("background", "", "concept A", "concept B"),
}
_MOST = {1: 4, 2: 9, 3: 39}  # largest number of instances of a bag that are not background


class AssumptionBags(NamedTuple):
    """B bags of one split of a test.

    Attributes:
        features: one (n, D) float32 tensor per bag.
        labels: (B,) int64, alternating zeros and ones.
        kinds: (N,) int64, kind of each instance: 0 background, 1 poison, 2 the indicator of test 1
            or concept A, 3 concept B.
    """

    features: tuple[Tensor, ...]
    labels: Tensor
    kinds: Tensor

    @property
    def sizes(self) -> Tensor:
        """Return (B,) int64, instances per bag."""
        return torch.tensor([len(bag) for bag in self.features])

    def kinds_of(self, bag: int) -> Tensor:
        """Return (n,), the kind of each instance of one bag."""
        return torch.split(self.kinds, self.sizes.tolist())[bag]

    def scaled(self, mean: Tensor, std: Tensor) -> AssumptionBags:
        """Return the bags with features (x - mean) / std, where mean and std are (D,)."""
        packed = (torch.cat(self.features) - mean) / std
        return self._replace(features=torch.split(packed, self.sizes.tolist()))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of all instances, (D,) each."""
        packed = torch.cat(self.features).double()
        return packed.mean(0).float(), packed.std(0, correction=0).float()


def kind_names(test: TestNumber) -> tuple[str, ...]:
    """Return the names of kinds 0 to 3; empty for a kind that the test does not have."""
    return _NAMES[test]


def concept_bags(
    test: TestNumber,
    split: Split,
    bags: int,
    seed: int,
    *,
    size: int | None = 45,
    dim: int = 16,
    indicator: Indicator = "subtle",
    empty_negatives: bool = False,
) -> AssumptionBags:
    """Draw bags of one test; see the module docstring.

    Args:
        test: 1, 2 or 3.
        split: ``train`` contains the shortcut, in ``test`` it is reversed.
        bags: B, at least 2.
        seed: seed of the bags, not negative.
        size: instances of every bag; None for the number that is drawn.
        dim: D.
        indicator: for test 1: ``subtle`` is N(0, 3); with ``mixed``, each is N(1, 1) with
            probability 1/2.
        empty_negatives: for test 2: a third of the negative training bags has neither A nor B.

    Raises:
        ValueError: an argument is out of range, or the test has bags that exceed the size.

    >>> bags = concept_bags(1, "train", 4, seed=0)
    >>> len(bags.features), tuple(bags.features[0].shape), bags.labels.tolist()
    (4, (45, 16), [0, 1, 0, 1])
    """
    _check(test, split, bags, size, dim, indicator)
    rng = np.random.default_rng([3, _PURPOSE, seed, test, split == "test"])
    labels = np.arange(bags) % 2
    counts = _counts(test, split == "test", labels == 1, empty_negatives, rng)  # (B, 4)
    if size is not None:
        counts[:, BACKGROUND] = size - counts[:, POISON:].sum(1)
    sizes = counts.sum(1)
    kinds = np.repeat(np.tile(np.arange(4), bags), counts.ravel())  # by bag, then by kind
    owner = np.repeat(np.arange(bags), sizes)
    kinds = kinds[np.lexsort((rng.random(len(kinds)), owner))]
    mean, std = np.array(_GAUSSIANS[test], dtype=np.float32)[kinds].T
    if indicator == "mixed" and test == 1:
        obvious = (kinds == FIRST) & (rng.random(len(kinds)) < 0.5)
        mean[obvious], std[obvious] = _OBVIOUS
    noise = rng.standard_normal((len(kinds), dim), dtype=np.float32)
    features = torch.from_numpy(mean[:, None] + std[:, None] * noise)
    return AssumptionBags(
        torch.split(features, sizes.tolist()), torch.from_numpy(labels), torch.from_numpy(kinds)
    )


def _check(test: int, split: str, bags: int, size: int | None, dim: int, indicator: str) -> None:
    if test not in _GAUSSIANS or split not in get_args(Split):
        raise ValueError(f"tests are 1, 2, 3 and splits train, test; got {test} and {split!r}")
    if indicator not in get_args(Indicator):
        raise ValueError(f"indicators are {get_args(Indicator)}, got {indicator!r}")
    if bags < 2 or dim < 1:
        raise ValueError(f"need at least 2 bags of at least 1 feature, got {bags} and {dim}")
    if size is not None and size <= _MOST[test]:
        raise ValueError(
            f"bags of test {test} have up to {_MOST[test]} instances in addition to background; "
            f"the size must be larger, got {size}"
        )


def _counts(
    test: int, late: bool, positive: BoolArray, empty: bool, rng: np.random.Generator
) -> IntArray:
    """Return (B, 4), instances of each kind per bag; ``late`` is True for test bags."""
    bags = len(positive)
    counts = np.zeros((bags, 4), dtype=np.int64)

    def between(low: int, high: int) -> IntArray:
        return rng.integers(low, high, size=bags, endpoint=True)

    def chance(share: float) -> BoolArray:
        return rng.random(bags) < share

    if test == 1:
        counts[:, BACKGROUND] = np.where(positive, between(1, 4), between(1, 9))
        counts[:, POISON] = positive == late
        counts[:, FIRST] = np.where(positive, between(1, 3), 0)
        return counts
    alone = np.ones(bags, dtype=np.int64)
    if test == 2:
        counts[:, BACKGROUND] = between(1, 4)
        counts[:, POISON] = positive if late else ~positive | chance(0.1)
        both = np.stack([between(1, 4), between(1, 4)], 1)
        if empty and not late:
            alone[chance(1 / 3)] = 0
    else:
        counts[:, BACKGROUND] = between(1, 9)
        both = np.ones((bags, 2), dtype=np.int64)
        if late:
            alone = between(35, 39)
    is_first = chance(4 / 9 if test == 3 and late else 1 / 2)
    lone = np.stack([alone * is_first, alone * ~is_first], 1)
    counts[:, FIRST:] = np.where(positive[:, None], both, lone)
    return counts
