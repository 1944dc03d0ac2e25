"""A batch of bags, packed without padding, and the output of a MIL model for it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from structures.batch import Batch
from structures.devices import as_float64, has_float64
from structures.tasks import MILTask
from structures.transferable import Transferable, check_dtype, check_field


@dataclass(frozen=True, slots=True)
class BagBatch(Batch):
    """The bags of one step: B bags whose N instances are concatenated in order.

    Attributes:
        features: (N, D) float, or (N, ...) images of instances for models with an encoder.
        offsets: (B + 1,) int64; bag b owns rows ``offsets[b]:offsets[b + 1]``.
        labels: (B,) int64 class numbers, or (B, C) for a multilabel task; (B,) int64 grades, -1
            where unknown; (B, 2) float64 time and event (1, or 0 for a censored bag); or (B, T)
            float64 values, NaN where unknown. Times stay float64, since float32 invents ties, and
            therefore on the host where the device has no float64 (A742).
        index: (B,) int64, the stable number of each bag in its data set.
        coords: (N, 2) level-0 pixels (x, y), or None.
        instance_labels: (N,) int64, -1 where unknown, or None.
        bag_ids: the names of the bags in the data set, or empty.
        groups: the patient of each bag, or empty.
        instance_index: (N,) int64, each instance's stable number in its bag; None for complete
            bags, where the position of an instance is its number.

    Raises:
        ValueError: a rank, an extent or a dtype is wrong. Values are never read here, because
            ``to`` constructs the batch again on the device; ``check`` reads them.
    """

    features: Tensor
    offsets: Tensor
    labels: Tensor
    index: Tensor
    coords: Tensor | None = None
    instance_labels: Tensor | None = None
    bag_ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    instance_index: Tensor | None = None

    def __post_init__(self) -> None:
        name = "BagBatch"
        if self.features.ndim < 2:
            raise ValueError(
                f"BagBatch.features must be (N, D) or (N, ...), got {tuple(self.features.shape)}"
            )
        check_dtype(name, "features", self.features, "float")
        total = self.features.shape[0]
        bags = self.labels.shape[0] if self.labels.ndim else 0
        check_field(name, "offsets", self.offsets, (bags + 1,))
        check_dtype(name, "offsets", self.offsets, "integer")
        self._check_labels()
        check_field(name, "index", self.index, (bags,))
        if self.coords is not None:
            check_field(name, "coords", self.coords, (total, 2))
        for field in ("instance_labels", "instance_index"):
            if getattr(self, field) is not None:
                check_field(name, field, getattr(self, field), (total,))
        for field in ("bag_ids", "groups"):
            value = getattr(self, field)
            if value and len(value) != bags:
                raise ValueError(f"BagBatch.{field} must name {bags} bags, got {len(value)}")

    def _check_labels(self) -> None:
        labels = self.labels
        if labels.ndim not in (1, 2):
            raise ValueError(f"BagBatch.labels must be (B,) or (B, C), got {tuple(labels.shape)}")
        if labels.is_floating_point() and (labels.ndim != 2 or labels.dtype != torch.float64):
            raise ValueError(
                "BagBatch.labels must be integers, or (B, T) float64 for times and values, got "
                f"{tuple(labels.shape)} {labels.dtype}"
            )

    def to(
        self, device: torch.device | str, non_blocking: bool = False, copy: bool = False
    ) -> BagBatch:
        """Return a copy on ``device``; labels in float64 stay on the host of an Apple GPU."""
        if self.labels.dtype != torch.float64 or has_float64(torch.device(device)):
            return Transferable.to(self, device, non_blocking, copy)
        rest = dataclasses.replace(self, labels=self.index)
        return dataclasses.replace(
            Transferable.to(rest, device, non_blocking, copy), labels=self.labels.cpu()
        )

    def __len__(self) -> int:
        """Return the number of bags (not of instances)."""
        return int(self.labels.shape[0])

    def units(self) -> dict[str, int]:
        """Return the numbers of bags and of their instances."""
        return {"bags": len(self), "instances": int(self.features.shape[0])}

    def sizes(self) -> Tensor:
        """Return (B,) int64, instances per bag."""
        return self.offsets.diff()

    def check(self) -> None:
        """Check the values of the offsets.

        Raises:
            ValueError: offsets do not start at 0, do not end at N, decrease, or a bag is empty.
        """
        offsets = self.offsets.tolist()
        if offsets[0] != 0 or offsets[-1] != self.features.shape[0]:
            raise ValueError(
                f"BagBatch.offsets must run from 0 to {self.features.shape[0]}, "
                f"got {offsets[0]} to {offsets[-1]}"
            )
        for bag, (start, end) in enumerate(itertools.pairwise(offsets)):
            if end <= start:
                who = self.bag_ids[bag] if self.bag_ids else f"number {bag}"
                raise ValueError(f"bag {who} has no instances; remove it from the data set")

    def bag(self, position: int) -> BagBatch:
        """Return the batch that holds only the bag at ``position``, as views."""
        start, end = self.offsets[position : position + 2].tolist()
        one = slice(position, position + 1)
        return dataclasses.replace(
            self,
            features=self.features[start:end],
            offsets=self.offsets.new_tensor([0, end - start]),
            labels=self.labels[one],
            index=self.index[one],
            coords=None if self.coords is None else self.coords[start:end],
            instance_labels=(
                None if self.instance_labels is None else self.instance_labels[start:end]
            ),
            bag_ids=self.bag_ids[one],
            groups=self.groups[one],
            instance_index=None if self.instance_index is None else self.instance_index[start:end],
        )

    def numbers(self) -> Tensor:
        """Return (N,) int64, each instance's stable number in its bag."""
        if self.instance_index is not None:
            return self.instance_index
        rows = torch.arange(self.features.shape[0], device=self.offsets.device)
        starts = self.offsets[:-1].repeat_interleave(self.sizes(), output_size=rows.shape[0])
        return rows - starts

    def in_single_precision(self) -> BagBatch:
        """Return the batch with features in float32 or wider; half precision is exact in it.

        Called on the device, because half as many bytes are read, packed and moved before.
        """
        features, dtype = self.features, torch.promote_types(self.features.dtype, torch.float32)
        if features.dtype == dtype:
            return self
        if features.device.type != "cpu":
            return dataclasses.replace(self, features=features.to(dtype))
        # numpy asks for huge pages, which makes the copy of a large bag three times as fast.
        empty = torch.from_numpy(np.empty(features.shape, dtype=np.float32))
        return dataclasses.replace(self, features=empty.copy_(features))

    def keep(self, kept: Tensor) -> BagBatch:
        """Return the bags with a subset of their instances, which keep their numbers.

        Args:
            kept: (N,) bool. A bag may lose all instances; models need at least one per bag.
        """
        before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
        return dataclasses.replace(
            self,
            features=self.features[kept],
            offsets=before[self.offsets],
            coords=None if self.coords is None else self.coords[kept],
            instance_labels=None if self.instance_labels is None else self.instance_labels[kept],
            instance_index=self.numbers()[kept],
        )

    def bags(self) -> list[BagBatch]:
        """Return one single-bag batch for each bag."""
        return [self.bag(position) for position in range(len(self))]

    @classmethod
    def collate(cls, bags: Sequence[BagBatch]) -> BagBatch:
        """Concatenate batches; an optional field is kept only if every part has it.

        Raises:
            ValueError: the list is empty, or feature widths differ between the parts.
        """
        if not bags:
            raise ValueError("cannot collate an empty list of bags")
        widths = {tuple(b.features.shape[1:]) for b in bags}
        if len(widths) > 1:
            named = {tuple(b.features.shape[1:]): b.bag_ids for b in bags}
            raise ValueError(f"bags of different feature widths in one batch: {named}")
        sizes = torch.cat([b.sizes() for b in bags])
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])

        def joined(field: str) -> Tensor | None:
            parts = [getattr(b, field) for b in bags]
            return None if any(part is None for part in parts) else torch.cat(parts)

        def joined_numbers() -> Tensor | None:
            if all(b.instance_index is None for b in bags):
                return None
            return torch.cat([b.numbers() for b in bags])

        def names(field: str) -> tuple[str, ...]:
            complete = all(len(getattr(b, field)) == len(b) for b in bags)
            return tuple(n for b in bags for n in getattr(b, field)) if complete else ()

        return cls(
            features=torch.cat([b.features for b in bags]),
            offsets=offsets,
            labels=torch.cat([b.labels for b in bags]),
            index=torch.cat([b.index for b in bags]),
            coords=joined("coords"),
            instance_labels=joined("instance_labels"),
            bag_ids=names("bag_ids"),
            groups=names("groups"),
            instance_index=joined_numbers(),
        )


@dataclass(frozen=True, slots=True)
class MILOutput(Transferable):
    """The output of every MIL model, in training and in evaluation.

    Attributes:
        logits: (B, C); C = 1 for a binary task (positive-class log-odds), else one per class;
            (B, 1) log-risk of ``cox``; (B, K) log-odds of the hazard in each bin of
            ``discrete_time``; (B, T) coded values of ``regression``; (B, K - 1) log-odds of
            P(y > k given y >= k) of ``ordinal``.
        attention: (N,) or (N, K), sums to 1 within each bag, or None. Maps per class follow the
            order of the classes in the logits: a binary task has only the map of class 1 (A143).
            Metrics and figures take the mean over maps (A36).
        attention_logits: the attention before the softmax, or None.
        embeddings: (B, E), or (B, C, E) for models with one embedding per class, or None.
        instance_logits: (N, C) or None.
    """

    logits: Tensor
    attention: Tensor | None = None
    attention_logits: Tensor | None = None
    embeddings: Tensor | None = None
    instance_logits: Tensor | None = None

    def __post_init__(self) -> None:
        check_field("MILOutput", "logits", self.logits, ("B", "C"))
        if self.attention is not None and self.attention.ndim not in (1, 2):
            raise ValueError(
                f"MILOutput.attention must be (N,) or (N, K), got {tuple(self.attention.shape)}"
            )

    def supervised(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return the predictions that the loss terms compare with the labels, by term.

        Returns:
            (B, C) logits, or (B, K, C) where a bag has K of them, and (B, K) bool of those that
            exist, None for all. A subclass with other terms than ``bag`` overrides it.
        """
        return {"bag": (self.logits, None)}

    def probabilities(self, task: MILTask) -> Tensor:
        """Return (B,) probabilities of class 1 for a binary task, (B, C) otherwise.

        The grades of ``ordinal`` have P(y = k), (B, K), and ``discrete_time`` has S_k, (B, K).

        Raises:
            ValueError: a risk of ``cox`` or a value of ``regression`` is no probability.

        >>> MILOutput(torch.zeros(2, 1)).probabilities("binary").tolist()
        [0.5, 0.5]
        >>> MILOutput(torch.zeros(1, 2)).probabilities("ordinal").tolist()
        [[0.5, 0.25, 0.25]]
        """
        if task == "binary":
            return self.logits[:, 0].sigmoid()
        if task == "multiclass":
            return self.logits.softmax(dim=1)
        if task == "multilabel":
            return self.logits.sigmoid()
        if task == "ordinal":
            return self._grades()
        if task == "discrete_time":
            return self.survival()
        raise ValueError(f"the predictions of {task} are no probabilities; use predictions")

    def predictions(self, task: MILTask) -> Tensor:
        """Return what is predicted: probabilities, (B,) risks or (B, T) values.

        ``cox``: the logarithm of the risk, (B,) float64; ``regression``: coded values, (B, T)
        (`TargetCoding.decoded`); all others: `probabilities`.
        """
        if task == "cox":
            return self.risk(task)
        return self.logits if task == "regression" else self.probabilities(task)

    def survival(self) -> Tensor:
        """Return S_k = prod_(j <= k) (1 - sigmoid(l_j)) of ``discrete_time``, (B, K) float64.

        S_k is the probability of surviving bin k, at its right edge; on the host if the device has
        no float64.
        """
        return logsigmoid(-as_float64(self.logits)).cumsum(dim=1).exp()

    def risk(self, task: MILTask) -> Tensor:
        """Return (B,) float64, higher where the event is expected earlier.

        The log-risk of ``cox``; minus the sum of S_k, in [-K, 0], of ``discrete_time``, in float64
        because it saturates.

        Raises:
            ValueError: the task has no times.
        """
        if task == "cox":
            return as_float64(self.logits)[:, 0]
        if task == "discrete_time":
            return -self.survival().sum(dim=1)
        raise ValueError(f"a model of the task {task} predicts no risk")

    def _grades(self) -> Tensor:
        """Return P(y = k) = sigmoid(-l_k) prod_(j < k) sigmoid(l_j), (B, K)."""
        logits = self.logits.to(torch.promote_types(self.logits.dtype, torch.float32))
        none = torch.zeros_like(logits[:, :1])
        higher = torch.cat([none, logsigmoid(logits).cumsum(dim=1)], dim=1)  # log P(y >= k)
        return (higher + torch.cat([logsigmoid(-logits), none], dim=1)).exp()
