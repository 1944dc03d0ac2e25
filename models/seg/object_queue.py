"""First-in, first-out memory of object embeddings and their centre.

The universal object queue of SWORD (Wu et al. 2023, arXiv 2308.04206): its centre stands for what
all objects have in common. The rows have length 1, and so has the centre, the normalised mean of
the rows (A610).

Letters: K rows of the queue, C width, N embeddings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ops.precision import at_least_float32


class ObjectQueue(nn.Module):
    """The last K embeddings, in buffers that a checkpoint holds.

    Args:
        size: K.
        width: C.

    Raises:
        ValueError: a number is not positive.

    >>> queue = ObjectQueue(2, 2)
    >>> queue.push(torch.tensor([[9.0, 9.0], [0.0, 3.0], [2.0, 0.0]]))
    >>> len(queue), queue.rows.tolist(), queue.centre()
    (2, [[1.0, 0.0], [0.0, 1.0]], tensor([0.7071, 0.7071]))
    """

    rows: Tensor
    pushed: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        for name, value in (("size", size), ("width", width)):
            if value < 1:
                raise ValueError(f"{name} of an object queue must be at least 1, got {value}")
        self.register_buffer("rows", torch.zeros(size, width))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))  # of all times

    def __len__(self) -> int:
        """Return how many rows are filled; waits for the device."""
        return min(int(self.pushed), self.rows.shape[0])

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Normalise embeddings and overwrite the oldest; of more than K the last K remain.

        Args:
            rows: (N, C), N may be 0. Processes that train together push the same rows.
        """
        size, count = self.rows.shape[0], rows.shape[0]
        places = (self.pushed + torch.arange(count, device=self.rows.device)) % size
        unit = F.normalize(at_least_float32(rows[-size:]), dim=1)
        self.rows[places[-size:]] = unit.to(self.rows)
        self.pushed.add_(count)

    @torch.no_grad()
    def centre(self) -> Tensor:
        """Return the normalised mean (C,) of the filled rows, 0 while there are none."""
        return F.normalize(at_least_float32(self.rows).sum(dim=0), dim=0)  # empty rows are 0

    def filled(self) -> Tensor:
        """Return 1 if there are rows and 0 otherwise, a scalar on the device."""
        return self.pushed.clamp(max=1).to(self.rows.dtype)
