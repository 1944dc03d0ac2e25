"""Attention scores that depend on a single instance each, for attention pooling.

Ilse, Tomczak, Welling 2018 (arXiv 1802.04712), eqs. (8) and (9), before the softmax:

    s_n = W tanh(V h_n)                        plain
    s_n = W (tanh(V h_n) * sigmoid(U h_n))     gated

V and U have a bias, W has none: it would cancel in the softmax.

Letters: E embedding width, L attention width, K maps.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.mil.protocol import positive_widths


class GatedAttention(nn.Module):
    """Scores of K attention maps.

    Args:
        in_features: E.
        attention_dim: L.
        maps: K.
        gated: use the gate of eq. (9).

    Raises:
        ValueError: a width is not positive.
    """

    def __init__(
        self, in_features: int, attention_dim: int, *, maps: int = 1, gated: bool = True
    ) -> None:
        super().__init__()
        positive_widths(in_features=in_features, attention_dim=attention_dim, maps=maps)
        self.value = nn.Linear(in_features, attention_dim)
        self.gate = nn.Linear(in_features, attention_dim) if gated else None
        self.score = nn.Linear(attention_dim, maps, bias=False)

    def forward(self, instances: Tensor) -> Tensor:
        """Return (..., K) scores of instances (..., E)."""
        hidden = self.value(instances).tanh()
        if self.gate is not None:
            hidden = hidden * self.gate(instances).sigmoid()
        scores: Tensor = self.score(hidden)
        return scores
