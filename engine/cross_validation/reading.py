"""Batches of bags for the training and prediction of a fold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.mil.base import select_bags
from datamodules.mil.feature_bags import FeatureBags
from datamodules.mil.feature_set import FeatureSet
from datamodules.sampling.keys import SampleKey
from structures import BagBatch

# Returns a batch of the bags with the given numbers, for a training epoch or, with None, uncut.
Reader = Callable[[Sequence[int], int | None], BagBatch]
# The batches of an optimizer step, as keys of bags.
StepKeys = list[list[SampleKey]]


def reader(bags: FeatureSet | BagBatch, max_instances: int | None, seed: int) -> Reader:
    """Return a reader of bags by number.

    Args:
        bags: the slides, or all bags of an npz file.
        max_instances: most instances of a slide in training; larger ones are reduced to a subset.
        seed: seed of the subsets.
    """
    if isinstance(bags, FeatureSet):
        cut = FeatureBags(bags, max_instances, seed, bags.versions)
        whole = FeatureBags(bags)

        def read(numbers: Sequence[int], epoch: int | None) -> BagBatch:
            slides = whole if epoch is None else cut
            batch = BagBatch.collate([slides[SampleKey(n, epoch or 0)] for n in numbers])
            return batch.in_single_precision()

        return read
    return lambda numbers, epoch: select_bags(bags, torch.tensor(numbers))


def read_ahead(
    source: Dataset[BagBatch],
    batches: Iterable[list[SampleKey]],
    num_workers: int,
    device: torch.device,
) -> Iterator[BagBatch]:
    """Return an iterator of batches that worker processes read while the device trains.

    Args:
        source: the bags.
        batches: the keys of each batch.
        num_workers: number of processes.
        device: device that trains; batches for CUDA are in page-locked memory.
    """
    loader = DataLoader(
        source,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=BagBatch.collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # its own, so that dropout draws the same numbers
    )
    return iter(loader)


def on_device(batch: BagBatch, device: torch.device) -> BagBatch:
    """Return the batch on a device; batches are read on the processor."""
    return batch if device.type == "cpu" else batch.to(device, non_blocking=True)


def in_batches(numbers: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield successive parts of at most ``size`` numbers."""
    for start in range(0, len(numbers), size):
        yield list(numbers[start : start + size])
