"""Random choices of instances that only depend on a key, the bag and the instance.

A model draws one key per forward pass, with `draw_key`. A choice is then a hash of (key, index of
the bag, index of the instance): groups, masks and views of a bag do not depend on the other bags of
its batch, on the process or on the device, and need no random draw per bag.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.bags.ragged import segment_ids
from structures import BagBatch
from structures.keyed_words import STEP, mix


def draw_key() -> int:
    """Return a new key from torch's generator on the host, which is seeded for every batch."""
    return int(torch.randint(2**62, ()))


def random_order(bags: BagBatch, key: int, stream: int = 0) -> Tensor:
    """Return a random number for each instance as a sort key.

    Args:
        bags: bags of N instances.
        key: key of the choice, see `draw_key`; a constant for a choice that never changes.
        stream: separates choices under the same key.

    Returns:
        (N,) int64, uniform over all 2^64 values.
    """
    ids = segment_ids(bags.offsets, bags.features.shape[0])
    word = (key + stream * STEP + 2**63) % 2**64 - 2**63  # wraps as the additions below do
    mixed = mix(mix(torch.full((), word, device=ids.device)) ^ bags.index)
    return mix(mixed[ids] ^ mix(bags.numbers()))


def random_uniform(bags: BagBatch, key: int, stream: int = 0) -> Tensor:
    """Return a number in [0, 1) for each instance, (N,) float32; see `random_order`."""
    return ((random_order(bags, key, stream) >> 40) & 0xFFFFFF).float() / 2**24
