"""Bags of slide features for a data loader: whole, reduced, or of an augmented version."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.mil.feature_set import FeatureSet
from datamodules.sampling.keys import SampleKey, keyed_generator
from structures import BagBatch

_SUBSET_PURPOSE, _VERSION_PURPOSE = 7, 83


class FeatureBags(torch.utils.data.Dataset[BagBatch]):
    """Data set of bags to be collated, indexed by the keys of a sampler.

    Args:
        bags: the bags.
        max_instances: larger bags are reduced to a random subset that depends on (seed, epoch,
            bag); None for whole bags. Instances keep their order.
        seed: seed of the random choices.
        versions: augmented versions; the features themselves or one of them is drawn, all equally
            likely, by (seed, epoch, bag). 0 for the features themselves.  # A692
    """

    def __init__(
        self,
        bags: FeatureSet,
        max_instances: int | None = None,
        seed: int = 0,
        versions: int = 0,
    ) -> None:
        self._bags, self._most, self._seed = bags, max_instances, seed
        self._versions = versions

    def __len__(self) -> int:
        return len(self._bags)

    def __getitem__(self, key: SampleKey) -> BagBatch:
        size = int(self._bags.sizes[key.index])
        version = self._version(key)
        if self._most is None or size <= self._most:
            return self._bags.bag(key.index, copy=False, version=version)
        rng = keyed_generator(_SUBSET_PURPOSE, self._seed, key.epoch, key.index)
        rows = np.sort(rng.choice(size, self._most, replace=False))
        return self._bags.bag(key.index, torch.from_numpy(rows), copy=False, version=version)

    def _version(self, key: SampleKey) -> int:
        if not self._versions:
            return 0
        rng = keyed_generator(_VERSION_PURPOSE, self._seed, key.epoch, key.index)
        return int(rng.integers(self._versions + 1))
