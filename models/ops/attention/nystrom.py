"""Nystrom attention, an approximation of softmax attention with linear cost in the tokens.

Xiong, Zeng, Chakraborty, Tan, Fung, Li, Singh, "Nystromformer: A Nystrom-Based Algorithm for
Approximating Self-Attention", AAAI 2021, arXiv 2102.03902. Landmarks are the means of R segments
of consecutive tokens, Q~ and K~ are their queries and keys, and

    softmax(Q K^T / sqrt(d)) V  ~  F Z B V
    F = softmax(Q K~^T / sqrt(d))    A = softmax(Q~ K~^T / sqrt(d))    B = softmax(Q~ K^T / sqrt(d))

Z is the pseudo-inverse of A after a fixed number of steps (Razavi et al. 2014):

    Z_0 = A^T / (largest row sum of A x largest column sum of A)
    Z_k+1 = Z_k p(A Z_k),    p(Y) = (13 I - Y (15 I - Y (7 I - Y))) / 4

If T is not a multiple of R, zeros are put in front of the tokens. They fill complete segments and a
part of one, and B attends to them. As all zeros are equal, only one is stored: the landmark of
zeros represents w segments by adding log w to its logits, and one zero token represents all zeros.
The result is exactly that of explicit zeros, and bags of few instances cost little.

Letters: b bags of equally many tokens, T tokens, h heads, d width of a head, E width, M distinct
landmarks.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ops.precision import at_least_float32


class Segments(NamedTuple):
    """Division of tokens into segments for landmarks.

    Attributes:
        length: number of positions of a segment.
        first: tokens in the first segment that holds any, in [1, length].
        zeros: segments in front of it, which hold only zeros.
        padding: zeros in front of the tokens.
    """

    length: int
    first: int
    zeros: int
    padding: int


def divide(tokens: int, landmarks: int) -> Segments:
    """Divide tokens into segments of equal length, with zeros in front to fill the segments.

    >>> divide(10, 4)
    Segments(length=3, first=1, zeros=0, padding=2)
    >>> divide(3, 8)
    Segments(length=1, first=1, zeros=5, padding=5)
    """
    length = -(-tokens // landmarks)
    padding = length * landmarks - tokens
    return Segments(length, length - padding % length, padding // length, padding)


def segment_means(tokens: Tensor, segments: Segments) -> Tensor:
    """Return the distinct landmarks, (b, M, E), beginning with that of the zeros, if any.

    Args:
        tokens: (b, T, E).
        segments: `divide` of T.
    """
    length, first = segments.length, segments.first
    started = tokens[:, :first].sum(1, keepdim=True) / length
    bags, count, width = tokens.shape
    rest = tokens[:, first:].view(bags, (count - first) // length, length, width).mean(2)
    zeros = [torch.zeros_like(started)] if segments.zeros else []
    return torch.cat([*zeros, started, rest], dim=1)


class PseudoInverse:
    """Approximate pseudo-inverse of stochastic matrices, in at least float32.

    The last step is applied to the operand of the inverse, which is cheaper than to the inverse.

    Args:
        matrix: (b, h, M, M), rows that sum to 1.
        weights: (M,), number of equal rows and columns of the full matrix that each one represents;
            a column holds the sum of the columns that it represents.
        iterations: steps, at least 1.
    """

    def __init__(self, matrix: Tensor, weights: Tensor, iterations: int) -> None:
        with torch.autocast(matrix.device.type, enabled=False):
            full = matrix * (weights.unsqueeze(1) / weights)  # single columns, sums over all rows
            # Rows sum to 1. The heads of a bag share a scale, as in the authors' code (A100).
            largest = full.sum(2, keepdim=True).amax((1, 3), keepdim=True)
            inverse = full.transpose(2, 3) / largest
            eye = torch.eye(len(weights), dtype=matrix.dtype, device=matrix.device)
            for _ in range(iterations - 1):
                product = matrix @ inverse
                inner = 15 * eye - product @ (7 * eye - product)
                inverse = inverse @ (13 * eye - product @ inner) / 4
            self.matrix, self.before_last = matrix, inverse

    def times(self, columns: Tensor) -> Tensor:
        """Return the inverse times columns, (b, h, M, d)."""

        def product(x: Tensor) -> Tensor:
            return self.matrix @ (self.before_last @ x)

        with torch.autocast(columns.device.type, enabled=False):
            x = at_least_float32(columns)
            inner = 15 * x - product(7 * x - product(x))
            result: Tensor = self.before_last @ (13 * x - product(inner)) / 4
        return result

    def after(self, rows: Tensor) -> Tensor:
        """Return rows times the inverse, (b, h, t, M)."""

        def product(x: Tensor) -> Tensor:
            return (x @ self.matrix) @ self.before_last

        with torch.autocast(rows.device.type, enabled=False):
            x = at_least_float32(rows) @ self.before_last
            inner = 15 * x - product(7 * x - product(x))
            return (13 * x - product(inner)) / 4


class LandmarkAttention:
    """Attention through landmarks, for one sequence per bag.

    Args:
        query_marks: (b, h, M, d), queries of the landmarks (`segment_means`).
        key_marks: (b, h, M, d), keys of the landmarks.
        segments: division of the tokens.
        iterations: steps of the pseudo-inverse.
    """

    def __init__(
        self, query_marks: Tensor, key_marks: Tensor, segments: Segments, iterations: int
    ) -> None:
        self.query_marks, self.key_marks = query_marks, key_marks
        self.scale = query_marks.shape[3] ** -0.5
        self.log_padding = math.log(segments.padding) if segments.padding else -math.inf
        weights = at_least_float32(key_marks).new_ones(key_marks.shape[2])
        if segments.zeros:
            weights[0] = segments.zeros
        self.log_weights = weights.log()
        self.inverse = PseudoInverse(self._to_marks(query_marks), weights, iterations)

    def _to_marks(self, queries: Tensor) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            keys = at_least_float32(self.key_marks).transpose(2, 3)
            logits: Tensor = at_least_float32(queries) @ keys * self.scale
            return (logits + self.log_weights).softmax(3)

    def output(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return F Z B V, (b, h, t, d).

        Args:
            queries: (b, h, t, d).
            keys: (b, h, 1 + T, d), the first of them 0, representing all zeros.
            values: same shape as ``keys``, the first 0.
        """
        dtype = queries.dtype
        padding = keys.new_zeros(1, keys.shape[2])
        padding[:, 0] = self.log_padding
        read = F.scaled_dot_product_attention(self.query_marks, keys, values, attn_mask=padding)
        values = self.inverse.times(read).to(dtype)
        bias = self.log_weights.to(dtype).unsqueeze(0)
        return F.scaled_dot_product_attention(queries, self.key_marks, values, attn_mask=bias)

    def row(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return the row F Z B of one token, (b, h, 1 + T); sums to about 1, may be negative.

        Args:
            query: (b, h, 1, d).
            keys: (b, h, 1 + T, d), the first of them 0, representing all zeros.
        """
        factor = self.inverse.after(self._to_marks(query)).squeeze(2)
        marks = at_least_float32(self.query_marks) * self.scale
        row: Tensor = _Row.apply(factor, marks, keys, self.log_padding)  # type: ignore[no-untyped-call]
        return row


class _Row(torch.autograd.Function):
    """Autograd function f softmax(Q~ K^T), the landmarks' attention B weighted by factors f.

    B is formed head by head and recomputed in the backward pass, because all heads of a large bag
    would need most of the memory of a training step. With g the gradient of the row,

        dL/df = g B^T        dL/dlogits = B (g - dL/df^T) f^T, entry by entry
    """

    @staticmethod
    def forward(ctx: Any, factor: Tensor, marks: Tensor, keys: Tensor, first: float) -> Tensor:
        ctx.save_for_backward(factor, marks, keys)
        ctx.first = first
        heads = range(keys.shape[1])
        weights = (_Row.weights(marks[:, h], keys[:, h], first) for h in heads)
        with torch.autocast(keys.device.type, enabled=False):
            rows = [factor[:, h, None] @ w for h, w in zip(heads, weights, strict=True)]
        return torch.cat(rows, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        factor, marks, keys = ctx.saved_tensors
        to_factor, to_marks, to_keys = (torch.empty_like(t) for t in (factor, marks, keys))
        with torch.autocast(keys.device.type, enabled=False):
            for h in range(keys.shape[1]):
                weights = _Row.weights(marks[:, h], keys[:, h], ctx.first)  # (b, M, 1 + T)
                row = gradient[:, h, None]  # (b, 1, 1 + T)
                mean = weights @ row.transpose(1, 2)  # (b, M, 1)
                to_factor[:, h] = mean.squeeze(2)
                to_logits = weights.mul_(row - mean).mul_(factor[:, h, :, None])
                to_marks[:, h] = to_logits @ keys[:, h].to(to_logits.dtype)
                to_keys[:, h] = to_logits.transpose(1, 2) @ marks[:, h]
        return to_factor, to_marks, to_keys, None

    @staticmethod
    def weights(marks: Tensor, keys: Tensor, first: float) -> Tensor:
        with torch.autocast(keys.device.type, enabled=False):
            logits = marks @ keys.to(marks.dtype).transpose(1, 2)
        logits[:, :, 0] = first
        return logits.softmax(2)


def value_residual(values: Tensor, kernel: Tensor) -> Tensor:
    """Convolve the values along the tokens; all entries of a head share a kernel.

    Args:
        values: (b, T, h, d).
        kernel: (h, 1, K, 1), K odd.

    Returns:
        (b, T, h, d): entry t is the sum over k of kernel[k] values[t + k - (K - 1) / 2].
    """
    width, size = values.shape[3], kernel.shape[2]
    channels = values.flatten(2).transpose(1, 2).unsqueeze(3)  # (b, h d, T, 1), channels last
    weight = kernel.repeat_interleave(width, dim=0)
    mixed = F.conv2d(channels, weight, padding=(size // 2, 0), groups=weight.shape[0])
    return mixed.transpose(1, 2).reshape(values.shape)
