"""Width of an instance's embedding in the releases of ACMIL and AEM."""

from __future__ import annotations


def inner_width(in_features: int) -> int:
    """Return 128 for 384 features, and half of any other number (A380).

    >>> [inner_width(features) for features in (384, 512, 768, 1024)]
    [128, 256, 384, 512]
    """
    return 128 if in_features == 384 else max(1, in_features // 2)
