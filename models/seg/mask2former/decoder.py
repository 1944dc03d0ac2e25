"""Masked-attention decoder of Mask2Former (Cheng et al. 2022, arXiv 2112.01527, sec. 3.2).

    X_l = softmax(M_(l-1) + Q K^T) V + X_(l-1)                                            (1)
    M_(l-1)(x, y) = 0 where the mask of output l - 1 has a logit >= 0, else -infinity     (2)

followed by self-attention and a perceptron; each is normalised after the addition. The mask of a
query is the product of its embedding with the pixel decoder's map at stride 4. Two identities save
work here and change nothing but rounding: the last 1 x 1 convolution of that map is linear, so it
is applied to the embeddings instead; and a resized product is the product with the resized map
(A552).

Letters: B images, Q queries, D channels, M heads, S cells of a level, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.seg.mask2former.pixel_decoder import PixelFeatures, Size
from models.seg.queries.output import QueryOutput
from models.seg.queries.padding import valid_cells

LEVELS = 3


class Attention(nn.Module):
    """Attention of several heads; its tensors are those of ``nn.MultiheadAttention``.

    Args:
        width: D.
        heads: M; divides the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Return (B, Q, D).

        Args:
            queries: (B, Q, D).
            keys: (B, S, D).
            values: (B, S, D).
            allowed: (B or 1, Q, S) bool, True where a query may attend; at least one cell of each.
        """
        given = zip(
            (queries, keys, values),
            self.in_proj_weight.chunk(3),
            self.in_proj_bias.chunk(3),
            strict=True,
        )
        q, k, v = (
            _heads(F.linear(tokens, weight, bias), self.heads) for tokens, weight, bias in given
        )
        mask = None if allowed is None else allowed[:, None]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return out


class MaskedLayer(nn.Module):
    """Masked attention to a level, self-attention and a perceptron, normalised after each.

    Args:
        width: D.
        heads: M.
        ffn: width of the perceptron.
    """

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.cross_attn, self.cross_norm = Attention(width, heads), nn.LayerNorm(width)
        self.self_attn, self.self_norm = Attention(width, heads), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, ffn), nn.Linear(ffn, width)
        self.norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self,
        queries: Tensor,
        places: Tensor,
        keys: Tensor,
        values: Tensor,
        allowed: Tensor,
        among: Tensor | None = None,
    ) -> Tensor:
        """Return the queries (B, Q, D) after the layer.

        Args:
            queries: (B, Q, D).
            places: (Q, D) or (B, Q, D), the queries' positions.
            keys: (B, S, D), cells with their positions.
            values: (B, S, D), cells.
            allowed: (B, Q, S) bool.
            among: (B or 1, Q, Q) bool, which queries attend to which; None for all to all.
        """
        seen = self.cross_attn(queries + places, keys, values, allowed)
        queries = self.cross_norm(queries + seen)
        asked = queries + places
        queries = self.self_norm(queries + self.self_attn(asked, asked, queries, among))
        hidden = F.relu(self.linear1(queries))
        out: Tensor = self.norm(queries + self.linear2(hidden))
        return out


class MaskedDecoder(nn.Module):
    """Queries that attend to one level after the other, coarse to fine, within their own masks.

    Args:
        num_classes: K.
        num_queries: Q.
        width: D.
        heads: M.
        layers: number of layers.
        ffn: width of their perceptrons.
    """

    def __init__(
        self, num_classes: int, num_queries: int, width: int, heads: int, layers: int, ffn: int
    ) -> None:
        super().__init__()
        self.query_feat = nn.Embedding(num_queries, width)
        self.query_embed = nn.Embedding(num_queries, width)
        self.level_embed = nn.Embedding(LEVELS, width)
        self.layers = nn.ModuleList(MaskedLayer(width, heads, ffn) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.class_embed = nn.Linear(width, num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
        )

    def forward(
        self,
        pixels: PixelFeatures,
        mask_features: nn.Conv2d,
        valid: Tensor | None,
        size: Size,
        *,
        last_only: bool = False,
    ) -> QueryOutput:
        """Return the classes and masks of all outputs, the first before any layer.

        Args:
            pixels: output of the pixel decoder.
            mask_features: its last convolution, from D to D channels.
            valid: (B, 2) valid sizes in pixels; None if nothing is padding.
            size: (H, W) of the padded images.
            last_only: leave out all outputs but the last.
        """
        keys, values = self.keys_and_values(pixels)
        masks = LevelMasks(pixels, valid, size)
        queries = self.query_feat.weight.expand(len(values[0]), -1, -1)
        normed = [self.norm(queries)]
        embedded = [self.mask_embedding(normed[0], mask_features)]
        for number, layer in enumerate(self.layers):
            level = number % LEVELS
            allowed = masks.allowed(level, *embedded[-1])
            queries = layer(queries, self.query_embed.weight, keys[level], values[level], allowed)
            normed.append(self.norm(queries))
            embedded.append(self.mask_embedding(normed[-1], mask_features))
        first = -1 if last_only else 0
        return QueryOutput(
            [self.class_embed(one) for one in normed[first:]],
            mask_maps(embedded[first:], pixels.fine),
        )

    def keys_and_values(self, pixels: PixelFeatures) -> tuple[list[Tensor], list[Tensor]]:
        """Return the cells of each level, (B, S, D), with and without their positions."""
        values = [
            level + embedding
            for level, embedding in zip(pixels.levels, self.level_embed.weight, strict=True)
        ]
        keys = [v + places for v, places in zip(values, pixels.positions, strict=True)]
        return keys, values

    def mask_embedding(self, normed: Tensor, mask_features: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Return (B, Q, D) and (B, Q, 1): a mask is their product with the fine map plus a bias."""
        embedding = self.mask_embed(normed)
        assert mask_features.bias is not None
        folded = embedding @ mask_features.weight.flatten(1)
        return folded, (embedding @ mask_features.bias)[..., None]


class LevelMasks:
    """Where queries may attend on each level; carries no gradient.

    Args:
        pixels: output of the pixel decoder.
        valid: (B, 2) valid sizes in pixels, or None.
        size: (H, W) of the padded images.
    """

    def __init__(self, pixels: PixelFeatures, valid: Tensor | None, size: Size) -> None:
        fine = pixels.fine.detach()
        self._cells = [  # (B, D, S)
            F.interpolate(fine, of, mode="bilinear", align_corners=False).flatten(2)
            for of in pixels.sizes
        ]
        self._valid = [  # (B, 1, S)
            None if valid is None else valid_cells(valid, size, of).flatten(1)[:, None]
            for of in pixels.sizes
        ]

    @torch.no_grad()
    def allowed(self, level: int, embedding: Tensor, bias: Tensor) -> Tensor:
        """Return (B, Q, S) bool: logits from 0 on (A553), all valid cells where there is none."""
        cells, valid = self._cells[level], self._valid[level]
        inside = torch.baddbmm(bias.to(cells.dtype), embedding.to(cells.dtype), cells) >= 0
        if valid is not None:
            inside = inside & valid
        nowhere = ~inside.any(dim=-1, keepdim=True)
        return inside | (nowhere if valid is None else nowhere & valid)


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """Return (B, M, S, D / M) of (B, S, D)."""
    batch, count, _ = tokens.shape
    return tokens.view(batch, count, heads, -1).transpose(1, 2)


def mask_maps(embedded: list[tuple[Tensor, Tensor]], fine: Tensor) -> list[Tensor]:
    """Return the mask logits of several outputs, each (B, Q, h, w), by one product."""
    counts = [embedding.shape[1] for embedding, _ in embedded]
    embeddings = torch.cat([embedding for embedding, _ in embedded], dim=1)
    biases = torch.cat([bias for _, bias in embedded], dim=1)
    logits = torch.baddbmm(biases, embeddings, fine.flatten(2))
    return list(logits.view(*logits.shape[:2], *fine.shape[-2:]).split_with_sizes(counts, dim=1))
