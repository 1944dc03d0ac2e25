"""Bags of handwritten digits, positive if they contain a target digit; no download is needed.

The MNIST-bags protocol of Ilse et al. 2018 (arXiv 1802.04712, section 4.2) on the digits of
`datamodules.digits`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.digits import DigitSplit, source_digits
from datamodules.mil.base import MILDataModule
from datamodules.mil.splits import BagSplit
from datamodules.mil.targets.options import TargetOptions
from datamodules.mil.targets.planted import (
    PlantedTask,
    names_of,
    output_count,
    planted_label,
)
from datamodules.sampling.keys import keyed_generator
from structures import BagBatch
from structures.tasks import has_classes

_BAG_PURPOSE = 5
_TARGET_PURPOSE = 15
_SPLITS: tuple[DigitSplit, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class DigitBagSource:
    """The bags of one split; bag i depends on (split, seed, i) and the options alone.

    Attributes:
        split: split whose source digits are used.
        count: number of bags.
        seed: seed of the bags, independent of the seed of training.
        target: digit that makes a bag positive.
        others: digits of the other instances.
        mean_length: mean number of instances; lengths are the integer part of a normal variable.
        std_length: standard deviation of the number of instances.
        positive_fraction: share of positive bags; None to let the drawn digits decide.
        witness_rate: probability that an instance of a positive bag is the target, given that the
            bag contains at least one; None for the target's share among the digits that are drawn.
        as_images: instances are images (1, 8, 8) rather than vectors (64,).
        task: what the label of a bag is. But for ``binary``, all shares of the target are equally
            frequent, see `datamodules.mil.targets.planted`.
    """

    split: DigitSplit
    count: int
    seed: int
    target: int
    others: tuple[int, ...]
    mean_length: float
    std_length: float
    positive_fraction: float | None
    witness_rate: float | None
    as_images: bool
    task: PlantedTask = "binary"

    def rows(self, index: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the digits of a bag as rows of ``source_digits(split)``.

        Raises:
            IndexError: the index is out of range.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"bag {index} does not exist; there are {self.count}")
        rng = keyed_generator(_BAG_PURPOSE, _SPLITS.index(self.split), self.seed, index)
        targets, others = self._pools
        length = max(1, int(rng.normal(self.mean_length, self.std_length)))
        rate = self.witness_rate
        if rate is None:
            rate = targets.size / (targets.size + others.size)
        if self.task != "binary":
            witnesses = int(rng.integers(length + 1))
        elif self.positive_fraction is None:
            witnesses = int(rng.binomial(length, rate))
        elif self._is_positive(index):
            witnesses = _at_least_one(rng, length, rate)
        else:
            witnesses = 0
        chosen = np.concatenate(
            [rng.choice(targets, witnesses), rng.choice(others, length - witnesses)]
        )
        return rng.permutation(chosen)

    def _is_positive(self, index: int) -> bool:
        """Spread the positive bags evenly, so that any range of bags has the requested share."""
        share = self.positive_fraction or 0.0
        return int((index + 1) * share + 1e-9) > int(index * share + 1e-9)

    @functools.cached_property
    def _pools(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        labels = source_digits(self.split).labels
        return np.flatnonzero(labels == self.target), np.flatnonzero(np.isin(labels, self.others))

    def _label(self, index: int, witness: Tensor) -> Tensor:
        if self.task == "binary":
            return witness.amax(0, keepdim=True)
        rng = keyed_generator(_TARGET_PURPOSE, _SPLITS.index(self.split), self.seed, index)
        return planted_label(self.task, float(witness.double().mean()), index, rng)

    def packed(self) -> BagBatch:
        """Return all bags of the split."""
        return BagBatch.collate([self.bag(index) for index in range(self.count)])

    def bag(self, index: int) -> BagBatch:
        """Return one bag; instance labels are 1 for the target digit, else 0."""
        digits = source_digits(self.split)
        rows = self.rows(index)
        images = torch.from_numpy(digits.images[rows] / 16)
        witness = torch.from_numpy((digits.labels[rows] == self.target).astype(np.int64))
        return BagBatch(
            features=images.unsqueeze(1) if self.as_images else images.flatten(1),
            offsets=torch.tensor([0, rows.size]),
            labels=self._label(index, witness),
            index=torch.tensor([index]),
            instance_labels=witness,
            bag_ids=(f"{self.split}_{index:05d}",),
        )


def _at_least_one(rng: np.random.Generator, length: int, rate: float) -> int:
    """Draw from the binomial distribution under the condition that the result is not 0.

    The position of the first success follows a truncated geometric distribution and is drawn by
    inversion; the trials after it are unconstrained. Rejection is too slow at small rates.
    """
    if rate == 1:
        return length
    log_miss = np.log1p(-rate)
    any_hit = -np.expm1(length * log_miss)
    first = min(int(np.log1p(-rng.random() * any_hit) / log_miss), length - 1)
    return 1 + int(rng.binomial(length - 1 - first, rate))


class DigitBagsDataModule(MILDataModule):
    """Bags of digits that are positive if one of the digits is the target.

    The defaults are frozen, and all reported results refer to them: target 9, lengths with mean 10
    and standard deviation 2, as many positive as negative bags, 200 for training, 100 for
    validation and 500 for testing, each from the digits of its own split. Features are pixel
    values scaled to [0, 1], so they can be displayed directly. Prediction uses the test bags.

    Args:
        train_bags: number of training bags.
        val_bags: number of validation bags.
        test_bags: number of test bags.
        target: digit that makes a bag positive.
        mean_length: mean number of instances per bag.
        std_length: standard deviation of that number; a bag has at least one instance.
        positive_fraction: share of positive bags; null to draw digits at random and let them
            decide.
        witness_rate: probability that an instance of a positive bag is the target, given that the
            bag contains at least one; null for the target's natural share (about a tenth).
        other_digits: digits of the remaining instances; null for all digits except the target.
        as_images: instances are images (1, 8, 8) rather than vectors of 64 pixels.
        bag_seed: seed of the bags; independent of ``seed``, so that training with another seed
            uses the same data.
        task: ``binary``; or what is planted in the bags (`datamodules.mil.targets.planted`):
            times (``cox``, ``discrete_time``), values (``regression``) or grades (``ordinal``) that
            follow the share of the target in a bag.
        time_bins: number of bins of ``discrete_time``.
        **shared: the arguments of ``MILDataModule``.

    Raises:
        ValueError: a number is out of range.
    """

    later_defaults: ClassVar = {"task": "binary", "time_bins": 4}

    def __init__(
        self,
        train_bags: int = 200,
        val_bags: int = 100,
        test_bags: int = 500,
        target: int = 9,
        mean_length: float = 10.0,
        std_length: float = 2.0,
        positive_fraction: float | None = 0.5,
        witness_rate: float | None = None,
        other_digits: Sequence[int] | None = None,
        as_images: bool = False,
        bag_seed: int = 0,
        task: PlantedTask = "binary",
        time_bins: int = 4,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        others = set(range(10)) - {target} if other_digits is None else set(other_digits)
        _check_digits(target, others)
        for name, share in (
            ("positive_fraction", positive_fraction),
            ("witness_rate", witness_rate),
        ):
            if share is not None and not 0 < share <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {share}")
        counts = {"train_bags": train_bags, "val_bags": val_bags, "test_bags": test_bags}
        if min(*counts.values(), mean_length) <= 0 or std_length < 0 or bag_seed < 0:
            raise ValueError(
                f"numbers of bags and mean_length must be positive, std_length and bag_seed not "
                f"negative; got {counts}, {mean_length}, {std_length}, {bag_seed}"
            )
        self._targets = TargetOptions(task, time_bins=time_bins, labels_needed=False)
        self._targets.check()
        if task != "binary" and witness_rate is not None:
            raise ValueError(f"witness_rate is for the task binary, not {task}; leave it out")
        self.num_classes, self.task = output_count(task, time_bins), task
        self.in_features = 64
        self.class_names, self.target_names = names_of(task)
        if task == "binary":
            self.class_names = [f"without {target}", f"with {target}"]
        self.plan.check_classes(self.num_classes, named=has_classes(task))
        options: dict[str, Any] = {
            "seed": bag_seed,
            "target": target,
            "others": tuple(sorted(others)),
            "mean_length": mean_length,
            "std_length": std_length,
            "positive_fraction": positive_fraction,
            "witness_rate": witness_rate,
            "as_images": as_images,
            "task": task,
        }
        self._sources = {s: DigitBagSource(s, counts[f"{s}_bags"], **options) for s in _SPLITS}
        self._packed: dict[str, BagBatch] = {}

    def source(self, split: BagSplit) -> BagBatch:
        """Return the bags of a split; they are drawn only once."""
        name: DigitSplit = "test" if split == "predict" else split
        if name not in self._packed:
            self._packed[name] = self._sources[name].packed()
        return self._packed[name]

    def numbers(self, split: BagSplit) -> Sequence[int]:
        """Return the numbers of all bags of the split."""
        return range(self._sources["test" if split == "predict" else split].count)

    def evaluation_arguments(self) -> dict[str, Any]:
        """Return the batch size; pixels are used unchanged."""
        targets = self._targets
        if self.task == "regression":
            targets = targets._replace(target_columns=self.target_names)
        prepared = {"eval_batch_size": self.eval_batch_size, "standardise": False}
        return prepared | targets.record()


def _check_digits(target: int, others: set[int]) -> None:
    if not others or not {target} | others <= set(range(10)) or target in others:
        raise ValueError(
            f"target and other_digits must be digits from 0 to 9, and other_digits must not "
            f"contain the target; got {target} and {sorted(others)}"
        )
