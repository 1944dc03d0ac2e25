"""Random numbers that are hashes of keys: equal in every batch, process and on every device."""

from __future__ import annotations

from torch import Tensor

# Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014: SplitMix64,
# with constants written as two's complement.
STEP = 0x9E3779B97F4A7C15 - 2**64


def mix(words: Tensor) -> Tensor:
    """Return a hash of each word, the finaliser of SplitMix64.

    ``mix(key + n * STEP)`` for n = 0, 1, ... is the sequence of random words of a key.

    Args:
        words: int64 of any shape.

    Returns:
        int64 of the same shape, uniform over all 2^64 values.
    """
    words = words + STEP
    words = (words ^ _shifted(words, 30)).mul_(0xBF58476D1CE4E5B9 - 2**64)
    words = (words ^ _shifted(words, 27)).mul_(0x94D049BB133111EB - 2**64)
    return words ^ _shifted(words, 31)


def uniform(words: Tensor, shift: int = 41) -> Tensor:
    """Return a number in (0, 1) for each random word, float32, a middle of 2^23 equal parts.

    Args:
        words: int64 of any shape.
        shift: position of the lowest of the 23 bits that are used; numbers from bits that do not
            overlap are independent.
    """
    return ((words >> shift) & (2**23 - 1)).float().add_(0.5).mul_(2.0**-23)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shift to the right and fill with zeros, unlike ``>>`` of a signed number."""
    return (words >> bits).bitwise_and_(2 ** (64 - bits) - 1)
