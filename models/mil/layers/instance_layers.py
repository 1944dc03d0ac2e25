"""Fully connected layers that embed an instance, shared by models of pooled embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from models.mil.protocol import positive_widths


def instance_layers(
    in_features: int, hidden_sizes: Sequence[int], dropout: float = 0.0
) -> nn.Sequential:
    """Return Linear and ReLU for each width, followed by dropout.

    Args:
        in_features: D.
        hidden_sizes: widths of the layers; empty to use the features directly.
        dropout: dropout probability of the embedding.

    Raises:
        ValueError: a width is not positive.
    """
    widths = [in_features, *hidden_sizes]
    positive_widths(hidden_sizes=widths)
    layers: list[nn.Module] = []
    for width, hidden in itertools.pairwise(widths):
        layers += [nn.Linear(width, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(dropout))
