"""Standardisation of features by statistics of the training bags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Standardisation(NamedTuple):
    """Mean and standard deviation of each feature: (x - mean) / std, clipped to +-limit.

    Attributes:
        mean: (D,) float64.
        std: (D,) float64; 0 for a constant feature. Such a feature becomes 0 in all bags, because
            a network cannot learn from it.
        limit: largest absolute value after scaling, or None. A nearly constant feature has outliers
            dozens of standard deviations away, which would dominate all other features.
    """

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    limit: float | None = None

    @classmethod
    def fit(cls, features: npt.NDArray[np.float32], limit: float | None = None) -> Standardisation:
        """Compute the statistics of the instances of the training bags.

        Args:
            features: (N, D), at least one row.
            limit: see the class.
        """
        values = features.astype(np.float64)
        mean, std = values.mean(axis=0), values.std(axis=0)
        constant = std <= 1e-6 * np.abs(values).max(axis=0)  # rounding errors
        return cls(mean, np.where(constant, 0.0, std), limit)

    @classmethod
    def from_lists(
        cls, mean: Sequence[float], std: Sequence[float], limit: float | None = None
    ) -> Standardisation:
        """Build the standardisation from the lists in a checkpoint or a recipe.

        Raises:
            ValueError: the lists have different lengths or a standard deviation is negative.
        """
        result = cls(np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64), limit)
        if result.mean.shape != result.std.shape or not (result.std >= 0).all():
            raise ValueError(
                "mean and std need one entry per feature, and std must not be below 0; got "
                f"{result.mean.size} and {result.std.size} entries, smallest std "
                f"{min(std, default=0)}"
            )
        return result

    def apply(self, features: npt.NDArray[np.float32]) -> Tensor:
        """Return (N, D) float32 standardised features.

        Raises:
            ValueError: the number of features differs.
        """
        if features.shape[1] != self.mean.size:
            raise ValueError(
                f"bags with {features.shape[1]} features, but standardisation was fitted on "
                f"{self.mean.size}"
            )
        varies = self.std > 0
        scale = np.where(varies, self.std, 1.0)
        values = np.where(varies, (features - self.mean) / scale, 0.0)
        if self.limit is not None:
            values = values.clip(-self.limit, self.limit)
        return torch.from_numpy(values.astype(np.float32))
