"""Memory of INS between steps: prototypes, a queue of keys and one pseudo target per instance.

See `models.mil.ins.ins` for the method and the letters. Everything is stored in buffers, which all
processes update in the same way, from the gathered instances of a step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.bags.gather_rows import gather_rows
from models.ops.bags.ragged import segment_ids
from models.ops.precision import at_least_float32
from structures import BagBatch


class INSMemory(nn.Module):
    """Memory of INS between steps, equal on all processes and saved with the weights.

    Args:
        num_classes: C.
        width: P.
        queue_size: Q.

    Attributes:
        prototypes: (C, P) of length 1, or 0 while no instance had the class yet.
        queue: (Q, P) keys of earlier steps.
        queue_labels: (Q,) int64 pseudo labels of the keys, -1 where the queue is not filled yet.
        queue_next: position of the queue that is written next.
        targets: (T, C) pseudo targets of the instances of all training bags.
        starts: first row of each bag in ``targets``, by the index of the bag; T for bags that are
            not in the training set and have no rows.
    """

    prototypes: Tensor
    queue: Tensor
    queue_labels: Tensor
    queue_next: Tensor
    targets: Tensor
    starts: Tensor

    def __init__(self, num_classes: int, width: int, queue_size: int) -> None:
        super().__init__()
        self.register_buffer("prototypes", torch.zeros(num_classes, width))
        self.register_buffer("queue", torch.zeros(queue_size, width))
        self.register_buffer("queue_labels", torch.full((queue_size,), -1))
        self.register_buffer("queue_next", torch.zeros((), dtype=torch.int64))
        self.register_buffer("targets", torch.zeros(0, num_classes))
        self.register_buffer("starts", torch.zeros(0, dtype=torch.int64))

    def set_training_bags(self, numbers: Tensor, labels: Tensor, sizes: Tensor) -> None:
        """Create the table of targets, uniform over the candidates of each bag's instances.

        Args:
            numbers: (n,) indices of the bags.
            labels: (n,) classes of the bags.
            sizes: (n,) numbers of instances.
        """
        numbers, labels, sizes = (t.to(self.starts) for t in (numbers, labels, sizes))
        candidates = candidate_classes(labels, self.targets.shape[1]).to(self.targets)
        uniform = candidates / candidates.sum(dim=1, keepdim=True)
        self.targets = uniform.repeat_interleave(sizes, dim=0)
        self.starts = sizes.sum().repeat(int(numbers.max()) + 1)
        self.starts[numbers] = sizes.cumsum(0) - sizes

    def rows(self, bags: BagBatch) -> Tensor:
        """Return the row of each instance in the table, (N,); at least T for bags without rows.

        Raises:
            ValueError: the table has not been created.
        """
        if not self.starts.numel():
            raise ValueError("INS has to see the training bags before it trains")
        starts = self.starts[bags.index]
        return starts[segment_ids(bags.offsets, bags.features.shape[0])] + bags.numbers()

    def update_targets(self, rows: Tensor, classes: Tensor, negative: Tensor, phi: float) -> None:
        """Move the targets of instances towards the classes of their nearest prototypes.

        Args:
            rows: (N,) rows of the table.
            classes: (N,) int64.
            negative: (N,) bool, instances of negative bags, which are certainly of class 0.
            phi: fraction of the old target that is kept.
        """
        moves = gather_rows(torch.stack([rows, classes, negative.long()], dim=1))
        # A bag that occurs twice in a step has two views: the class of the first counts for both,
        # so that the order in which equal rows are written does not matter (A135).
        moves = moves[moves[:, 0].argsort(stable=True)]
        places = torch.arange(moves.shape[0], device=moves.device)
        repeated = F.pad(moves[1:, 0] == moves[:-1, 0], (1, 0))
        first = places.masked_fill(repeated, 0).cummax(0).values
        rows, classes, negative = moves[:, 0], moves[first, 1], moves[:, 2] > 0
        observed = F.one_hot(classes, self.targets.shape[1]).to(self.targets)
        pinned = torch.zeros_like(observed)
        pinned[:, 0] = 1
        moved = phi * self.targets[rows] + (1 - phi) * observed
        self.targets[rows] = torch.where(negative.unsqueeze(1), pinned, moved)

    def update_prototypes(self, queries: Tensor, labels: Tensor, momentum: float) -> None:
        """Update the prototypes by the queries in order, and normalise at the end (A133).

        mu <- m mu + (1 - m) q for q_1, ..., q_n of a class is m^n mu + (1 - m) sum m^(n - i) q_i.

        Args:
            queries: (S, P) in the order of the updates.
            labels: (S,) pseudo labels of the queries.
            momentum: m.
        """
        one_hot = F.one_hot(labels, self.prototypes.shape[0]).to(queries)  # (S, C)
        counts = one_hot.sum(dim=0)
        later = counts - one_hot.cumsum(dim=0)
        weights = one_hot * (1 - momentum) * momentum**later
        kept = momentum ** counts.unsqueeze(1) * self.prototypes
        self.prototypes.copy_(unit(kept + products(weights.T, queries.T)))

    def enqueue(self, keys: Tensor, labels: Tensor) -> None:
        """Overwrite the oldest keys and labels; of more than Q keys the last Q remain."""
        size, count = self.queue.shape[0], keys.shape[0]
        places = (self.queue_next + torch.arange(count, device=keys.device)) % size
        self.queue[places[-size:]] = keys[-size:].to(self.queue)
        self.queue_labels[places[-size:]] = labels[-size:]
        self.queue_next.add_(count).remainder_(size)

    def make_room(self, state: dict[str, Any], prefix: str) -> None:
        """Resize the table to its size in a checkpoint, possibly of other training bags."""
        for name in ("targets", "starts"):
            found, own = state.get(prefix + name), getattr(self, name)
            if found is not None and found.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_zeros(found.shape))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        self.make_room(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def candidate_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Return a mask of the classes that the instances of a bag may have: 0 and the bag's own.

    >>> candidate_classes(torch.tensor([0, 2]), 3).long().tolist()
    [[1, 0, 0], [1, 0, 1]]
    """
    classes = torch.arange(num_classes, device=labels.device)
    return (classes == 0) | (classes == labels.unsqueeze(1))


def unit(rows: Tensor) -> Tensor:
    """Scale rows to length 1, in at least float32; zero rows remain zero."""
    return F.normalize(at_least_float32(rows), dim=1)


def products(left: Tensor, right: Tensor) -> Tensor:
    """Return the inner products of rows in full precision, also under autocast."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.to(left).T
