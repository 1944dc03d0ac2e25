"""Batch samplers of bags: drawing by class or by weight, packing by number of instances.

All draws depend on (seed, epoch) only, and the samplers divide the batches over processes
themselves, like `datamodules.sampling.keys.EpochBatchSampler`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from datamodules.mil.balanced_batches import BalancedBatchSampler
from datamodules.mil.chunks import ChunkBatchSampler
from datamodules.mil.folds import strata
from datamodules.sampling.keys import EpochBatchSampler, SampleKey, keyed_generator
from structures import processes

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
DrawName = Literal["shuffle", "class_balanced", "balanced_batches", "weighted"]
# Draws the order of an epoch from a random stream: (n,) positions in the list of training bags.
Draw = Callable[[np.random.Generator], IntArray]

_PACK_PURPOSE = 8
_BY_CLASS = ("class_balanced", "balanced_batches")


def shuffled(count: int) -> Draw:
    """Return a draw that contains every bag once."""
    return lambda rng: rng.permutation(count)


def class_balanced(labels: IntArray) -> Draw:
    """Return a draw that contains equally many bags of every class.

    An epoch is as long as the list. A class with more bags than its share contributes a random
    subset; a class with fewer repeats its bags equally often, up to one time (A57). The remainder
    of the division goes to other classes in every epoch.

    Args:
        labels: (n,) classes.
    """
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]

    def draw(rng: np.random.Generator) -> IntArray:
        shares = np.full(len(members), labels.size // len(members))
        shares[rng.permutation(len(members))[: labels.size % len(members)]] += 1
        chosen = []
        for bags, share in zip(members, shares.tolist(), strict=True):
            rounds = [rng.permutation(bags) for _ in range(-(-share // bags.size))]
            chosen.append(np.concatenate([*rounds, bags[:0]])[:share])
        return rng.permutation(np.concatenate(chosen))

    return draw


def weighted(weights: FloatArray) -> Draw:
    """Return a draw with replacement in which bag i has probability w_i / sum of w.

    Args:
        weights: (n,) not negative, not all 0.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0.
    """
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise ValueError(
            "weights of bags must be finite, not negative and not all 0 among the training bags"
        )
    shares = weights / weights.sum()
    return lambda rng: rng.choice(weights.size, weights.size, p=shares)


class DrawnBatchSampler(EpochBatchSampler):
    """Training batches of equally many bags, in the order of a draw.

    Args:
        items: numbers of the bags.
        batch_size: bags per step on one process.
        draw: draws the order of an epoch.
        seed: non-negative.
    """

    def __init__(self, items: Sequence[int], batch_size: int, *, draw: Draw, seed: int = 0) -> None:
        super().__init__(items, batch_size, shuffle=True, seed=seed, drop_last=True)
        self._draw = draw

    def _order(self, step: int, rng: np.random.Generator) -> IntArray:
        del step
        return self._draw(rng)


def pack(sizes: IntArray, budget: int, max_bags: int) -> list[IntArray]:
    """Put bags into batches of at most ``budget`` instances and ``max_bags`` bags.

    Each bag goes, in order, into the first batch with enough room. A bag larger than the budget
    has a batch of its own.

    Args:
        sizes: (n,) number of instances of each bag in order.
        budget: most instances in a batch.
        max_bags: most bags in a batch.

    Returns:
        Positions in ``sizes``, batch by batch.

    >>> [batch.tolist() for batch in pack(np.array([4, 3, 9, 2, 1]), 6, 2)]
    [[0, 3], [1, 4], [2]]
    """
    room = np.full(sizes.size, budget, dtype=np.int64)
    batches: list[list[int]] = []
    for position, size in enumerate(sizes.tolist()):
        fits = np.flatnonzero(room[: len(batches)] >= size)
        if fits.size:
            chosen = int(fits[0])
            batches[chosen].append(position)
        else:
            chosen = len(batches)
            batches.append([position])
        room[chosen] -= size
        if len(batches[chosen]) == max_bags:
            room[chosen] = -1
    return [np.array(batch, dtype=np.int64) for batch in batches]


class TokenBudgetBatchSampler(Sampler[list[SampleKey]]):
    """Training batches of about equally many instances.

    The draw of an epoch is packed by `pack`. The batches do not depend on the number of processes,
    which take them in turn, so that a step of W processes uses W successive batches. Every epoch
    has as many batches as epoch 0: if packing gives a few more, they are left out; if it gives a
    few less, they are filled up with bags of another draw (A58).

    Args:
        items: numbers of the bags.
        sizes: number of instances of each bag.
        budget: most instances of a batch on one process; only a single larger bag may exceed it.
        max_bags: most bags in a batch.
        draw: draws the order of an epoch.
        seed: non-negative.

    Raises:
        ValueError: there are no bags, or budget or max_bags is not positive.
    """

    def __init__(
        self,
        items: Sequence[int],
        sizes: IntArray,
        budget: int,
        max_bags: int,
        *,
        draw: Draw,
        seed: int = 0,
    ) -> None:
        if budget < 1 or max_bags < 1 or len(items) == 0:
            raise ValueError(
                "bags and a positive token_budget and batch_size are needed, got "
                f"{len(items)} bags, token_budget {budget} and batch_size {max_bags}"
            )
        self._items = np.asarray(items, dtype=np.int64)
        self._sizes, self._budget, self._max_bags = sizes, budget, max_bags
        self._draw, self._seed, self._epoch = draw, seed, 0

    @property
    def sampler(self) -> TokenBudgetBatchSampler:
        """This sampler: Lightning calls ``set_epoch`` on ``dataloader.batch_sampler.sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self._epoch = epoch

    @functools.cached_property
    def _count(self) -> int:
        return len(self._packed(0, 0))

    def _packed(self, epoch: int, draw: int) -> list[IntArray]:
        order = self._draw(keyed_generator(_PACK_PURPOSE, self._seed, epoch, draw))
        return [order[b] for b in pack(self._sizes[order], self._budget, self._max_bags)]

    def __len__(self) -> int:
        _, world = processes.rank_and_world_size()
        if self._count < world:
            raise ValueError(
                f"{self._items.size} training bags in {self._count} batches of {self._budget} "
                f"instances are too few for {world} processes; lower token_budget"
            )
        return self._count // world

    def __iter__(self) -> Iterator[list[SampleKey]]:
        rank, world = processes.rank_and_world_size()
        epoch, steps = self._epoch, len(self)
        batches = self._packed(epoch, 0)
        if len(batches) < self._count:
            batches += self._packed(epoch, 1)
        for number in range(rank, steps * world, world):
            yield [SampleKey(int(index), epoch) for index in self._items[batches[number]]]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Options of drawing and packing the bags of training.

    Attributes:
        batch_size: bags per step on one process; with a token budget, the most bags in a batch.
        sampler: ``shuffle``: every bag once; ``class_balanced``; ``balanced_batches``;
            ``weighted``: by the weights of the file times the weights of the classes.
        class_weights: weight of each class for ``weighted``.
        token_budget: most instances in a batch, or None for batches of equally many bags.
        max_instances: training bags are reduced to this many instances, and a token budget counts
            the reduced bags.
        chunk_instances: a batch has ``batch_size`` chunks of at most this many instances instead
            of whole bags, see `datamodules.mil.chunks`. None for bags.

    Raises:
        ValueError: a value is out of range or has no effect.
    """

    batch_size: int = 1
    sampler: DrawName = "shuffle"
    class_weights: tuple[float, ...] | None = None
    token_budget: int | None = None
    max_instances: int | None = None
    chunk_instances: int | None = None

    def __post_init__(self) -> None:
        for name in ("token_budget", "max_instances", "chunk_instances"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or null for none, got {value}")
        if self.class_weights is not None and self.sampler != "weighted":
            raise ValueError("class_weights needs sampler: weighted")
        if self.chunk_instances is not None:
            self._check_chunks()
        if self.token_budget is not None and self.sampler == "balanced_batches":
            raise ValueError(
                "sampler: balanced_batches fixes the number of bags in a batch, token_budget the "
                "number of instances; leave one of them out (max_instances also bounds the memory)"
            )
        if self.token_budget is not None and self.batch_size == 1:
            raise ValueError(
                "with token_budget, batch_size is the largest number of bags per batch: at 1 every "
                "batch is one bag; raise batch_size or leave token_budget out"
            )

    def _check_chunks(self) -> None:
        against = [name for name in ("max_instances", "token_budget") if getattr(self, name)]
        if self.sampler != "shuffle":
            against.append(f"sampler: {self.sampler}")
        if against:
            raise ValueError(
                "chunk_instances trains on every instance once per epoch, in batches of batch_size "
                f"chunks, which {' and '.join(against)} would change; leave one of them out"
            )

    def check_classes(self, num_classes: int, *, several: bool = False, named: bool = True) -> None:
        """Check that there is one class weight per class, and that bags can be drawn by class.

        Args:
            num_classes: number of classes.
            several: whether a bag may have several classes.
            named: whether there are classes. Bags with times and values are drawn by their strata
                instead (`datamodules.mil.targets.strata`), which have no weights.

        Raises:
            ValueError: there are more or fewer weights, or a bag has no single class to draw by.
        """
        if not named and self.class_weights is not None:
            raise ValueError(
                "class_weights weighs classes, but times and values have none; use sampler: "
                "class_balanced, or weighted with a column `weight` in the table"
            )
        if several and (self.class_weights is not None or self.sampler in _BY_CLASS):
            name = self.sampler if self.class_weights is None else "weighted with class_weights"
            raise ValueError(
                f"sampler: {name} draws bags by their class, but these bags have several classes "
                "each; use shuffle, or weighted with a column `weight` in the table"
            )
        weights = self.class_weights
        if weights is not None and len(weights) != num_classes:
            raise ValueError(
                f"class_weights has {len(weights)} entries for {num_classes} classes; give one per "
                "class, in the order of the labels"
            )

    def build(
        self,
        numbers: Sequence[int],
        labels: IntArray,
        sizes: IntArray,
        weights: FloatArray | None,
        seed: int,
    ) -> EpochBatchSampler | TokenBudgetBatchSampler | ChunkBatchSampler:
        """Return the batch sampler of training.

        Args:
            numbers: the training bags.
            labels: (B,) classes of all bags of the data set, or (B, C) zeros and ones.
            sizes: (B,) number of instances of each bag.
            weights: (B,) weights from the file, or None.
            seed: non-negative.

        Raises:
            ValueError: weights are missing or wrong, their number differs from the classes, or
                bags of several classes are to be drawn by class.
        """
        if labels.ndim == 2:
            self.check_classes(labels.shape[1], several=True)
        labels = strata(labels)
        chosen = np.asarray(numbers, dtype=np.int64)
        if self.chunk_instances is not None:
            return ChunkBatchSampler(
                numbers, labels[chosen], sizes[chosen], self.chunk_instances, self.batch_size,
                seed=seed,
            )  # fmt: skip
        if self.sampler == "balanced_batches":
            return BalancedBatchSampler(numbers, labels[chosen], self.batch_size, seed=seed)
        draw = self._draw(labels[chosen], None if weights is None else weights[chosen])
        if self.token_budget is None:
            return DrawnBatchSampler(numbers, self.batch_size, draw=draw, seed=seed)
        longest = sizes[chosen].max(initial=1) if self.max_instances is None else self.max_instances
        cut = np.minimum(sizes[chosen], longest)
        return TokenBudgetBatchSampler(
            numbers, cut, self.token_budget, self.batch_size, draw=draw, seed=seed
        )

    def _draw(self, labels: IntArray, weights: FloatArray | None) -> Draw:
        if self.sampler == "shuffle":
            return shuffled(labels.size)
        if self.sampler == "class_balanced":
            return class_balanced(labels)
        if weights is None and self.class_weights is None:
            raise ValueError(
                "sampler: weighted needs class_weights, or a column `weight` in the table"
            )
        total = np.ones(labels.size) if weights is None else weights
        if self.class_weights is not None:
            if labels.max(initial=0) >= len(self.class_weights):
                raise ValueError(
                    f"class_weights has {len(self.class_weights)} entries, the training bags have "
                    f"class {labels.max()}"
                )
            total = total * np.asarray(self.class_weights, dtype=np.float64)[labels]
        return weighted(total)
