"""TransMIL: a transformer over the instances of a bag.

Shao, Bian, Chen, Wang, Zhang, Ji, Zhang, "TransMIL: Transformer based Correlated Multiple Instance
Learning for Whole Slide Image Classification", NeurIPS 2021, arXiv 2106.00908. Instances attend to
one another through Nystrom attention (`models.ops.attention.nystrom`), and a pyramid of
convolutions (PPEG) encodes their positions on a square grid:

    h_n = act(W x_n + b)
    H   = [cls, h_1, ..., h_N, h_1, ..., h_(S^2 - N)]       S = ceil(sqrt(N)), Algorithm 2
    H   = H + attention(LN(H))                              no feed-forward part
    G   = G + conv7(G) + conv5(G) + conv3(G)                G: the S x S grid of H without cls
    H   = H + attention(LN(H))
    l   = head(LN(H)[cls])

    attention(X) = W_o [Nystrom(Q, K, V) + conv33(V)] + b_o,    Q, K, V = X W_qkv

Only the row of cls is computed in the second attention, since nothing else is used. The weighted
mean of the values is then the projection of the weighted mean of X, so the values of all tokens
are never formed. The three convolutions and the identity are one 7 x 7 convolution.

Bags of equal S (of equal N with ``square: ppeg``) form one dense batch: no bag is padded to another
bag's size, and B bags give the same result as B single bags. The sizes are read once per batch.

The returned attention is that of cls in the first layer, one map per head: the weights of repeated
tokens are added to the originals', negative parts of the approximation are clamped, and the weights
of a bag sum to 1 (A101). It carries no gradient. Grids below 7 x 7 are zero-padded inside PPEG
(A102).

Letters: N instances of B bags, E width, h heads, d = E / h, C logits; b bags of T tokens each.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.losses.bag_loss import bag_terms
from models.mil.protocol import Reduction, class_probability, num_logits, positive_widths
from models.ops.attention.nystrom import LandmarkAttention, divide, segment_means, value_residual
from models.ops.bags.ragged import segment_ids, segment_sum
from models.ops.precision import at_least_float32
from structures import BagBatch, MILOutput, MILTask

_SMALLEST_GRID = 7  # the side of PPEG's largest kernel


class TransMIL(nn.Module):
    """Two layers of Nystrom attention with position encoding in between and a class token.

    Args:
        in_features: width of an instance.
        num_classes: classes of the task, counting the negative one of a binary task.
        task: ``binary`` has one logit, the others one per class.
        width: E.
        heads: h, divides E.
        landmarks: number of landmarks of the Nystrom attention.
        iterations: steps of its pseudo-inverse.
        residual_kernel: kernel size of the convolution of the values, odd.
        dropout: dropout probability of the output of each attention.
        embed_dropout: dropout probability of an embedded instance.
        activation: activation of the embedding.
        square: ``before`` fills the grid before the first layer, as in the paper; ``ppeg`` only
            for the convolutions, so that no instance is repeated, as in MHIM.

    Raises:
        ValueError: a width or count is not positive, ``heads`` does not divide ``width``, the
            kernel is even, or a binary task has other than two classes.
    """

    permutation_invariant = False

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        task: MILTask,
        *,
        width: int = 512,
        heads: int = 8,
        landmarks: int = 256,
        iterations: int = 6,
        residual_kernel: int = 33,
        dropout: float = 0.1,
        embed_dropout: float = 0.0,
        activation: Literal["relu", "gelu"] = "relu",
        square: Literal["before", "ppeg"] = "before",
    ) -> None:
        super().__init__()
        positive_widths(in_features=in_features, landmarks=landmarks, iterations=iterations)
        self.task: MILTask = task
        self.square = square
        self.embed = nn.Sequential(
            nn.Linear(in_features, width),
            nn.ReLU() if activation == "relu" else nn.GELU(),
            nn.Dropout(embed_dropout),
        )
        self.cls_token = nn.Parameter(torch.randn(width))
        layer = functools.partial(
            TransLayer,
            width,
            heads,
            landmarks=landmarks,
            iterations=iterations,
            residual_kernel=residual_kernel,
            dropout=dropout,
        )
        self.layer1, self.layer2 = layer(), layer()
        self.positions = PPEG(width)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_logits(num_classes, task))

    def forward(self, bags: BagBatch) -> MILOutput:
        """Return logits (B, C), attention (N, h) and embeddings (B, E)."""
        return self.pool(self.embed_bags(bags))

    def embed_bags(self, bags: BagBatch) -> BagBatch:
        """Return the bags with embedded instances, (N, E)."""
        return dataclasses.replace(bags, features=self.embed(bags.features))

    def pool(self, bags: BagBatch) -> MILOutput:
        """Return the output for bags of embedded instances."""
        instances = bags.features
        attention = at_least_float32(instances).new_zeros(instances.shape[0], self.layer1.heads)
        members, classes = [], []
        for bucket, rows in self._buckets(bags):  # (b,), (b, T)
            chosen = instances.index_select(0, rows.flatten()).view(*rows.shape, -1)
            cls = self.cls_token.expand(len(bucket), 1, -1)
            tokens, row = self.layer1(torch.cat([cls, chosen], dim=1))
            # Adds the weight of a repeated token to its instance.
            attention.index_add_(0, rows.flatten(), row.transpose(1, 2).flatten(0, 1))
            classes.append(self.layer2.first(self.positions(tokens)))
            members.append(bucket)
        embeddings = self.norm(torch.cat(classes)[torch.cat(members).argsort()])
        return MILOutput(
            logits=self.classifier(embeddings),
            attention=_normalised(attention, bags.offsets),
            embeddings=embeddings,
        )

    def class_scores(self, bags: BagBatch, output: MILOutput) -> Tensor:
        """Return the evidence of each instance for a class, (N,) in [0, 1], without gradient.

        An instance's values in the first layer, weighted by its attention in each head, pass
        through the projection and the classifier; the score is the largest class probability (at
        least 1/2 for a binary task). Both are applied without bias, so that an instance without
        attention is no evidence for any class (A103).

        Args:
            bags: bags of embedded instances.
            output: output of `pool` for these bags.

        Raises:
            ValueError: the output has no attention.
        """
        if output.attention is None:
            raise ValueError("class scores need the output's attention")
        with torch.no_grad():
            values = self.layer1.values(bags.features)  # (N, h, d)
            read = (values * output.attention.unsqueeze(2)).flatten(1)
            projected = F.linear(read, self.layer1.out.weight)
            return class_probability(F.linear(projected, self.classifier.weight), self.task)

    def losses(
        self, output: MILOutput, bags: BagBatch, reduction: Reduction = "mean"
    ) -> dict[str, Tensor]:
        """Return ``bag``, the loss of the labels: a scalar, or (B,)."""
        return bag_terms(output, bags.labels, self.task, reduction)

    def _buckets(self, bags: BagBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the bags of equal T, (b,), and the rows of their instances, (b, T)."""
        buckets: dict[int, list[int]] = {}
        for bag, size in enumerate(bags.sizes().tolist()):
            tokens = grid_side(size) ** 2 if self.square == "before" else size
            buckets.setdefault(tokens, []).append(bag)
        device = bags.offsets.device
        order = torch.tensor([b for m in buckets.values() for b in m], device=device)  # one copy
        start = 0
        for tokens, members in buckets.items():
            bucket = order[start : start + len(members)]
            start += len(members)
            places = torch.arange(tokens, device=device) % bags.sizes()[bucket].unsqueeze(1)
            yield bucket, bags.offsets[bucket].unsqueeze(1) + places


class TransLayer(nn.Module):
    """Layer x + attention(LN(x)) without a feed-forward part; arguments as in `TransMIL`."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        landmarks: int,
        iterations: int,
        residual_kernel: int,
        dropout: float,
    ) -> None:
        super().__init__()
        positive_widths(width=width, heads=heads, landmarks=landmarks, iterations=iterations)
        if width % heads or residual_kernel % 2 == 0:
            raise ValueError(
                f"heads must divide width and residual_kernel be odd, got heads={heads}, "
                f"width={width}, residual_kernel={residual_kernel}"
            )
        self.heads, self.landmarks, self.iterations = heads, landmarks, iterations
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        size = (residual_kernel, 1)
        self.residual = nn.Conv2d(heads, heads, size, groups=heads, bias=False)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens and the attention of the first token to the others, (b, h, T).

        Args:
            tokens: (b, 1 + T, E), cls first.
        """
        normed = self.norm(tokens)
        padded = F.pad(normed, (0, 0, 1, 0))  # one zero token stands for all zeros of Nystrom
        qkv = self.qkv(padded).view(*padded.shape[:2], 3, self.heads, -1)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # each (b, h, 2 + T, d)
        attention = self._landmarks(normed)
        mixed = attention.output(queries, keys, values).transpose(1, 2)
        with torch.no_grad():
            row = attention.row(queries[:, :, 1:2], keys)[:, :, 2:]
        mixed = mixed + value_residual(values.transpose(1, 2), self.residual.weight)
        return tokens + self.dropout(self.out(mixed[:, 1:].flatten(2))), row

    def first(self, tokens: Tensor) -> Tensor:
        """Return the first token alone, (b, E)."""
        normed = self.norm(tokens)
        padded = F.pad(normed, (0, 0, 1, 0))
        query_weight, key_weight, value_weight = self.qkv.weight.chunk(3)
        keys = self._heads(F.linear(padded, key_weight)).transpose(1, 2)
        query = self._heads(F.linear(normed[:, :1], query_weight)).transpose(1, 2)
        row = self._landmarks(normed).row(query, keys)  # (b, h, 2 + T)
        # The convolution of the values adds fixed weights to the first token and its successors.
        taps = self.residual.weight[:, 0, self.residual.weight.shape[2] // 2 :, 0]
        taps = taps[:, : tokens.shape[1]]  # (h, at most 1 + T)
        row = row + F.pad(taps, (1, row.shape[2] - 1 - taps.shape[1]))
        per_head = value_weight.view(self.heads, -1, tokens.shape[2])  # (h, d, E)
        mixed = torch.einsum("bhe,hde->bhd", row @ padded, per_head).flatten(1)
        token: Tensor = tokens[:, 0] + self.dropout(self.out(mixed))
        return token

    def values(self, tokens: Tensor) -> Tensor:
        """Return the values of tokens (N, E), (N, h, d)."""
        value_weight = self.qkv.weight.chunk(3)[2]
        return self._heads(F.linear(self.norm(tokens), value_weight))

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.view(*rows.shape[:-1], self.heads, -1)

    def _landmarks(self, normed: Tensor) -> LandmarkAttention:
        segments = divide(normed.shape[1], self.landmarks)
        marks = segment_means(normed, segments)
        weight = self.qkv.weight[: 2 * normed.shape[2]]
        queries, keys = (
            self._heads(m).transpose(1, 2) for m in F.linear(marks, weight).chunk(2, 2)
        )
        return LandmarkAttention(queries, keys, segments, self.iterations)


class PPEG(nn.Module):
    """Position encoding by convolutions, G + conv7(G) + conv5(G) + conv3(G) by channel.

    Args:
        width: E.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv7, self.conv5, self.conv3 = (
            nn.Conv2d(width, width, size, padding=size // 2, groups=width) for size in (7, 5, 3)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens, (b, 1 + T, E), with cls unchanged.

        Args:
            tokens: (b, 1 + T, E), cls first. If T is not a square, the first tokens fill the grid.
        """
        instances = tokens[:, 1:]
        count = instances.shape[1]
        side = grid_side(count)
        grid = instances
        missing = side**2 - count
        if missing:
            grid = torch.cat([grid, grid[:, :missing]], dim=1)
        if side < _SMALLEST_GRID:  # A102
            grid = F.pad(grid, (0, 0, 0, _SMALLEST_GRID**2 - side**2))
            side = _SMALLEST_GRID
        image = grid.reshape(-1, side, side, grid.shape[2]).permute(0, 3, 1, 2)  # channels last
        weight = self.conv7.weight + F.pad(self.conv5.weight, [1] * 4)
        weight = weight + F.pad(self.conv3.weight, [2] * 4)  # (E, 1, 7, 7)
        bias = torch.stack(
            [c.get_parameter("bias") for c in (self.conv7, self.conv5, self.conv3)]
        ).sum(0)
        mixed = F.conv2d(image, weight, bias, padding=3, groups=weight.shape[0])
        mixed = mixed.permute(0, 2, 3, 1).flatten(1, 2)[:, :count]
        return torch.cat([tokens[:, :1], instances + mixed], dim=1)


def grid_side(tokens: int) -> int:
    """Return the side of the smallest square grid that holds this many tokens.

    >>> [grid_side(tokens) for tokens in (1, 2, 4, 5)]
    [1, 2, 2, 3]
    """
    return math.isqrt(tokens - 1) + 1


def _normalised(attention: Tensor, offsets: Tensor) -> Tensor:
    """Clamp negative weights and normalise each bag's to sum 1; uniform if all are 0."""
    attention = attention.clamp(min=0)  # (N, h)
    ids = segment_ids(offsets, attention.shape[0])
    totals = segment_sum(attention, offsets)[ids]
    sizes = offsets.diff()[ids].unsqueeze(1)
    return torch.where(totals > 0, attention / totals, 1 / sizes.to(attention.dtype))
