"""Encoders of patches for tests."""

from typing import Any, ClassVar

import torch
from torch import nn


class TinyEncoder(nn.Module):
    """Means of a grid of cells, through a random layer; values can be spoiled on purpose."""

    starts_from: ClassVar[dict[str, Any]] = {"seed": 0}

    def __init__(
        self, width: int = 8, input_size: int = 64, seed: int = 0, factor: float = 1.0
    ) -> None:
        super().__init__()
        self.input_size, self.out_features, self.factor = input_size, width, factor
        torch.manual_seed(seed)
        self.layer = nn.Linear(3 * 16, width)

    def forward(self, patches):
        return self.layer(nn.functional.adaptive_avg_pool2d(patches, 4).flatten(1)) * self.factor


class WrongEncoder(TinyEncoder):
    """An encoder whose output is a map, not finite, or that fails."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, patches):
        features = super().forward(patches)
        if self.fault == "fails":
            return self.layer(patches)
        return features[..., None, None] if self.fault == "map" else features / 0


class FileEncoder(TinyEncoder):
    """An encoder whose layer is read from a file."""

    starts_from: ClassVar[dict[str, Any]] = {"weights": None}

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.layer.load_state_dict(torch.load(weights, weights_only=True))
