"""Batch samplers of keys, independent of the number of workers and processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from datamodules.sampling.repeats import Repeats, occurrences
from structures import processes


@dataclass(frozen=True, slots=True)
class SampleKey:
    """Everything that a data set needs to produce one sample.

    Attributes:
        index: fixed number of the item in its data set.
        epoch: seeds the random choices of the sample together with the index, see ``draw``.
        size: short side in pixels drawn for the batch, or None.
        neighbours: numbers of other items nearby in the order of the epoch, for samples composed
            of several items; they do not depend on the number of processes and workers.
        occurrence: how many times the epoch had the item before, 0 unless items are repeated.
        chunk: number of the part of the item, or None for the whole item.
    """

    index: int
    epoch: int = 0
    size: int | None = None
    neighbours: tuple[int, ...] = ()
    occurrence: int = 0
    chunk: int | None = None

    @property
    def draw(self) -> tuple[int, ...]:
        """Numbers that, with a seed, determine the random choices of the sample."""
        first = (self.epoch, self.index)
        return (*first, self.occurrence) if self.occurrence else first


def keyed_generator(purpose: int, *key: int) -> np.random.Generator:
    """Return a random generator that depends only on the given numbers.

    Args:
        purpose: separates the streams of different uses of a key. It comes first, because numpy
            pads seeds with zeros: (1, 2) and (1, 2, 0) would be the same stream.
        key: non-negative numbers, such as (seed, epoch, index).
    """
    return np.random.default_rng([len(key), purpose, *key])


_ORDER_PURPOSE = 1
# Neighbours are blocks of _BLOCK items (whole ones per process if the batch size is a multiple) of
# every _EVERY-th step (all read by one worker if the number of workers divides _EVERY).
_BLOCK, _EVERY = 16, 8
_MAX_KEPT = 1024


def neighbouring_places(place: int, step: int, count: int, window: int) -> npt.NDArray[np.int64]:
    """Return the positions in the order of an epoch that are neighbours of one position (A230).

    With the usual numbers of workers and processes, they are read by the same worker anyway: about
    16 positions of the same step, and the same part of every eighth step before it. If these are
    fewer than ``window``, at the start of an epoch, the directly preceding positions are added.

    Args:
        place: position in the order.
        step: positions per step of all processes.
        count: number of positions in the order.
        window: sufficient number of neighbours.
    """
    blocks = max(1, step // _BLOCK)
    block = place % step * blocks // step
    first, last = (-(-k * step // blocks) for k in (block, block + 1))
    found: list[npt.NDArray[np.int64]] = []
    for start in range(place - place % step, -1, -_EVERY * step):
        found.append(np.arange(start + first, min(start + last, count)))
        if sum(map(len, found)) > window:
            break
    near = np.arange(max(0, place - window), min(max(place, window) + 1, count))
    places = np.concatenate(found) if found else near[:0]
    places = places[places != place]
    others = np.setdiff1d(near, [*places, place])[::-1]
    return np.concatenate([places, others[: max(0, window - places.size)]])


def images_to_keep(window: int, batch_size: int, workers: int) -> int:
    """Return how many items a worker must keep so that it still has all neighbours.

    Args:
        window: window of the sampler.
        batch_size: items per batch of one process.
        workers: number of workers; 0 if the process itself loads the data.
    """
    steps = -(-(window + 1) // min(batch_size, _BLOCK)) - 1
    own = -(-_EVERY // max(1, workers)) * steps * batch_size + batch_size
    return min(max(window + 1, own), _MAX_KEPT)


class EpochBatchSampler(Sampler[list[SampleKey]]):
    """Batch sampler of ``SampleKey`` that yields the batches of this process.

    It divides the batches over processes itself, so Lightning's trainer needs
    ``use_distributed_sampler=False``. There are two modes, selected by ``drop_last``:

    - True (training): step t takes the next batch_size x processes items in the order of the epoch,
      and every process takes a contiguous share, so all processes make equally many steps and
      together see the same items as a single process with the larger batch. Items that do not fill
      a step are left out, different ones in every epoch.
    - False (evaluation, or training on one process): batches of ``batch_size`` items go to the
      processes in turn. No item is left out, and every batch has the same items as on one process;
      the numbers of batches may differ by one. No batch is repeated unless there are fewer batches
      than processes: a process without a batch would miss the collective calls of the epoch, so it
      takes a batch of another process, and evaluators count each sample once (A68).

    Args:
        items: numbers of the items to draw from, for example ``range(len(dataset))``.
        batch_size: items per batch of one process.
        shuffle: use a new order in every epoch, drawn from (seed, epoch).
        seed: non-negative.
        drop_last: see above.
        groups: group number of each entry of ``items``; a batch contains a single group, except
            batches of the remaining items at the end of an epoch. None for no grouping.
        short_sides: lengths of which one is drawn for every step, for ``SampleKey.size``.
        window: smallest number of items in ``SampleKey.neighbours`` (fewer if the data set is too
            small), see `neighbouring_places`.
        repeats: average number of times an epoch has each of ``items``, at least 1; None for once.
            All epochs have the same length (`datamodules.sampling.repeats`).

    Raises:
        ValueError: a size is below 1, there are no items, the number of groups or factors differs
            from the number of items, or there are fewer items than one training step takes.
    """

    def __init__(
        self,
        items: Sequence[int],
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        groups: Sequence[int] | None = None,
        short_sides: Sequence[int] | None = None,
        window: int = 0,
        repeats: Sequence[float] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if len(items) == 0:
            raise ValueError("there are no items to make batches from")
        if groups is not None and len(groups) != len(items):
            raise ValueError(f"{len(groups)} group numbers for {len(items)} items")
        if repeats is not None and len(repeats) != len(items):
            raise ValueError(f"{len(repeats)} repeat factors for {len(items)} items")
        self._items = np.asarray(items, dtype=np.int64)
        self._groups = None if groups is None else np.asarray(groups, dtype=np.int64)
        self._per_process = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._drop = drop_last
        self._short_sides = list(short_sides) if short_sides else None
        self._window = window
        self._repeats = None if repeats is None else Repeats(repeats)
        self._epoch = 0

    @property
    def sampler(self) -> EpochBatchSampler:
        """This sampler: Lightning calls ``set_epoch`` on ``dataloader.batch_sampler.sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration produces."""
        self._epoch = epoch

    @property
    def _count(self) -> int:
        """Number of items in an epoch, before those that do not fill a step are left out."""
        return self._items.size if self._repeats is None else self._repeats.total

    def __len__(self) -> int:
        rank, world = processes.rank_and_world_size()
        count = self._count
        if self._drop:
            self._check_steps(world)
            return int(count // (self._per_process * world))
        self._check_order(world)
        batches = -(-count // self._per_process)
        return max(1, int((batches - rank + world - 1) // world))

    def _check_steps(self, world: int) -> None:
        needed = self._per_process * world
        if self._count < needed:
            raise ValueError(
                f"{self._count} training items do not fill one step of {self._per_process} "
                f"items on each of {world} processes; lower the batch size"
            )

    def _check_order(self, world: int) -> None:
        if self._shuffle and world > 1:
            raise ValueError(
                "training on several processes needs drop_last=True, so that all processes make "
                "equally many steps"
            )

    def _order(self, step: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return positions in ``items``; each ``step`` of them form the batches of a step."""
        rows = np.arange(self._items.size) if self._repeats is None else self._repeats.draw(rng)
        order = rng.permutation(rows) if self._shuffle else rows
        order = order[: self._count]
        if self._groups is None:
            return order
        batches: list[tuple[int, npt.NDArray[np.int64]]] = []
        rest = []
        for group in np.unique(self._groups):
            at = np.flatnonzero(self._groups[order] == group)
            full = at.size - at.size % step
            batches += [(int(b[-1]), order[b]) for b in at[:full].reshape(-1, step)]
            rest.append(at[full:])
        batches.sort(key=lambda entry: entry[0])  # in the order in which batches become full
        left = order[np.sort(np.concatenate(rest))]
        return np.concatenate([members for _, members in batches] + [left])

    def __iter__(self) -> Iterator[list[SampleKey]]:
        rank, world = processes.rank_and_world_size()
        epoch = self._epoch
        rng = keyed_generator(_ORDER_PURPOSE, self._seed, epoch)
        step = self._per_process * (world if self._drop else 1)
        order = self._items[self._order(step, rng)]
        if self._drop:
            self._check_steps(world)
            order = order[: order.size - order.size % step]
        else:
            self._check_order(world)
            rank %= -(-order.size // step)  # repeat another process's batch if none is left
        earlier = np.zeros_like(order) if self._repeats is None else occurrences(order)
        for number, start in enumerate(range(0, order.size, step)):
            size = None
            if self._short_sides is not None:
                size = self._short_sides[int(rng.integers(len(self._short_sides)))]
            places = range(start, min(start + step, order.size))
            if self._drop:
                places = places[rank * self._per_process : (rank + 1) * self._per_process]
            elif number % world != rank:
                continue
            yield [
                SampleKey(int(order[p]), epoch, size, self._near(order, p, step), int(earlier[p]))
                for p in places
            ]

    def _near(self, order: npt.NDArray[np.int64], place: int, step: int) -> tuple[int, ...]:
        if self._window == 0:
            return ()
        places = neighbouring_places(place, step, order.size, self._window)
        return tuple(order[places].tolist())


class KeySampler(Sampler[SampleKey]):
    """Sampler of single keys, for a ``DataLoader`` that forms batches of equal size itself.

    Lightning rebuilds the batch sampler of a prediction loader, which is only possible for torch's
    own class. Without ``drop_last`` all batches except the last are full, so splitting the sequence
    again gives the same batches.
    """

    def __init__(self, batches: EpochBatchSampler) -> None:
        self._batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration produces."""
        self._batches.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    def __iter__(self) -> Iterator[SampleKey]:
        for batch in self._batches:
            yield from batch
