"""Training on every instance of every bag in parts: chunks bound the size of a step.

In an epoch the instances of a bag are permuted and cut into chunks, and a batch contains chunks of
different bags. Permutation and order depend on (seed, epoch) only.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from datamodules.sampling.keys import SampleKey, keyed_generator
from structures import BagBatch, processes

IntArray = npt.NDArray[np.int64]

_ORDER_PURPOSE, _CHUNK_PURPOSE = 51, 52
# Instances of the bags whose chunks are mixed, and which a worker keeps: 256 MiB at 1024 features
# in half precision
OPEN_INSTANCES = 1 << 17  # A371


class BagSource(Protocol):
    """A sequence of bags; a number always refers to the same bag."""

    def __len__(self) -> int:
        """Return the number of bags."""
        ...

    def bag(self, position: int, /) -> BagBatch:
        """Return one bag as a batch."""
        ...


class ChunkBatchSampler(Sampler[list[SampleKey]]):
    """Training batches of chunks; an epoch contains every instance of every bag once.

    A bag of n instances has ceil(n / chunk) chunks of equal size, up to one. Bags are visited in
    random order with the classes evenly spread, in groups of at most ``opened`` instances (or one
    larger bag), and the chunks of a group are shuffled. So a bag has to be read once in an epoch
    if as many instances can be kept.

    A step of W processes uses W successive batches. The last step of an epoch may be smaller; if
    it has fewer chunks than processes, some are used by two of them.

    Args:
        items: numbers of the bags.
        labels: (n,) classes of the bags.
        sizes: (n,) number of instances of the bags.
        chunk: most instances in a chunk.
        batch_size: chunks per batch of one process.
        seed: non-negative.
        opened: see above.

    Raises:
        ValueError: there are no bags.
    """

    def __init__(
        self,
        items: Sequence[int],
        labels: IntArray,
        sizes: IntArray,
        chunk: int,
        batch_size: int,
        *,
        seed: int = 0,
        opened: int = OPEN_INSTANCES,
    ) -> None:
        if len(items) == 0:
            raise ValueError("there are no bags to make batches from")
        self._items, self._labels, self._sizes = np.asarray(items), labels, sizes
        self._counts = chunk_counts(sizes, chunk)
        self._batch_size, self._opened = batch_size, opened
        self._seed, self._epoch = seed, 0

    @property
    def sampler(self) -> ChunkBatchSampler:
        """This sampler: Lightning calls ``set_epoch`` on ``dataloader.batch_sampler.sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        _, world = processes.rank_and_world_size()
        return math.ceil(int(self._counts.sum()) / (self._batch_size * world))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        rank, world = processes.rank_and_world_size()
        epoch, step = self._epoch, self._batch_size * world
        bags, chunks = self._order(keyed_generator(_ORDER_PURPOSE, self._seed, epoch))
        for start in range(0, bags.size, step):
            places = np.arange(start, min(start + step, bags.size))
            places = np.resize(places, max(places.size, world))
            yield [
                SampleKey(int(self._items[bags[p]]), epoch, chunk=int(chunks[p]))
                for p in np.array_split(places, world)[rank]
            ]

    def _order(self, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Return position of the bag and number of the chunk for all chunks in order."""
        place = np.empty(self._items.size)
        for label in np.unique(self._labels):
            members = np.flatnonzero(self._labels == label)
            place[rng.permutation(members)] = (
                np.arange(members.size) + rng.random()
            ) / members.size
        order = place.argsort(kind="stable")
        groups = np.zeros(order.size, dtype=np.int64)
        group, room = 0, self._opened
        for bag in order.tolist():
            size = int(self._sizes[bag])
            if size > room:
                group, room = group + 1, self._opened
            room -= size
            groups[bag] = group
        bags = np.repeat(np.arange(order.size), self._counts)
        chunks = np.concatenate([np.arange(count) for count in self._counts.tolist()])
        mixed = np.lexsort((rng.random(bags.size), groups[bags]))
        return bags[mixed], chunks[mixed]


class ChunkedBags(Dataset[BagBatch]):
    """Data set of chunks, indexed by the keys of a `ChunkBatchSampler`.

    Args:
        source: source of the bags.
        chunk: most instances in a chunk.
        seed: seed of the permutations.
        kept: most instances of the bags kept in memory; one larger bag is kept, too.
    """

    def __init__(
        self, source: BagSource, chunk: int, seed: int, kept: int = OPEN_INSTANCES
    ) -> None:
        self._source, self._chunk, self._seed = source, chunk, seed
        self._most, self._kept = kept, OrderedDict[int, BagBatch]()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, key: SampleKey) -> BagBatch:
        assert key.chunk is not None
        bag = self._bag(key.index)
        size = bag.features.shape[0]
        order = keyed_generator(_CHUNK_PURPOSE, self._seed, key.epoch, key.index).permutation(size)
        count = int(chunk_counts(np.array([size]), self._chunk)[0])
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[torch.from_numpy(np.array_split(order, count)[key.chunk])] = True
        return bag.keep(chosen)

    def _bag(self, number: int) -> BagBatch:
        kept = self._kept
        if number not in kept:
            kept[number] = self._source.bag(number)
        kept.move_to_end(number)
        while len(kept) > 1 and sum(bag.features.shape[0] for bag in kept.values()) > self._most:
            kept.popitem(last=False)
        return kept[number]


def chunk_counts(sizes: IntArray, chunk: int) -> IntArray:
    """Return (n,) the number of chunks of each bag.

    >>> chunk_counts(np.array([1, 8, 9]), 8).tolist()
    [1, 1, 2]
    """
    return -(-sizes // chunk)
