"""Grouped linear and dropout layers, which compute several networks of one architecture together.

F networks that differ only in their weights process one packed batch, in which the bags of network
0 come first, then the bags of network 1, and so on. The ragged operations of a model
(`models.ops.bags.ragged`) do not depend on the network a bag belongs to; only the linear layers and
the dropout do. They infer the network of a row from the number of rows, which is the number of
instances or the number of bags. If the two are equal, every bag has one instance, and both layouts
are the same.

Letters: F networks, N instances, B bags, R rows (N or B), D and E widths of a layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class CannotGroupError(Exception):
    """Networks cannot be computed together; the message gives the reason for the user."""


class RowsByNetwork:
    """Number of rows of each network in the current batch; shared by the layers of a group."""

    def __init__(self) -> None:
        self._known: list[list[int]] = []

    def set(self, offsets: Tensor, bags_each: int) -> None:
        """Set the layout of a batch in which each network has ``bags_each`` bags."""
        borders = offsets[::bags_each].tolist()
        instances = [end - start for start, end in itertools.pairwise(borders)]
        self._known = [instances, [bags_each] * len(instances)]

    def of(self, values: Tensor) -> list[int]:
        """Return the number of rows of (R, ...) values of each network.

        Raises:
            CannotGroupError: R is neither the number of instances nor the number of bags.
        """
        for sizes in self._known:
            if values.shape[0] == sum(sizes):
                return sizes
        raise CannotGroupError("a layer sees rows that are neither instances nor bags")


class GroupedLinear(nn.Module):
    """nn.Linear of F networks; each row is multiplied by the weights of its network.

    Args:
        layers: the layer of each network.
        rows: see `RowsByNetwork`.

    Attributes:
        weights: (F, E, D).
        biases: (F, E), or None.
    """

    def __init__(self, layers: Sequence[nn.Linear], rows: RowsByNetwork) -> None:
        super().__init__()
        self.rows = rows
        self.in_features, self.out_features = layers[0].in_features, layers[0].out_features
        self.weights = _stacked([layer.weight for layer in layers])
        has_bias = layers[0].bias is not None
        self.biases = _stacked([layer.bias for layer in layers]) if has_bias else None

    @property
    def weight(self) -> Tensor:
        """Raise, because direct use of a weight cannot be grouped."""
        raise CannotGroupError("the network uses the weights of a layer directly")

    @property
    def bias(self) -> Tensor:
        """Raise, same as ``weight``."""
        return self.weight

    def forward(self, values: Tensor) -> Tensor:
        """Return (R, E) for (R, D)."""
        if values.ndim != 2:
            raise CannotGroupError("a layer sees values of more than two axes")
        result: Tensor = _Products.apply(  # type: ignore[no-untyped-call]
            values, self.weights, self.biases, self.rows.of(values)
        )
        return result


class GroupedDropout(nn.Module):
    """nn.Dropout of F networks, each with the mask that it would draw alone.

    Args:
        p: probability of an element to be zeroed.
        generators: random generator of each network, shared by its layers.
        rows: see `RowsByNetwork`.
    """

    def __init__(
        self, p: float, generators: Sequence[torch.Generator], rows: RowsByNetwork
    ) -> None:
        super().__init__()
        self.p, self.generators, self.rows = p, generators, rows

    def forward(self, values: Tensor) -> Tensor:
        """Zero elements with probability p and scale the others by 1 / (1 - p)."""
        if not self.training or self.p == 0:
            return values
        if self.p == 1:
            return values * 0
        kept = torch.empty_like(values, requires_grad=False)
        parts = kept.split_with_sizes(self.rows.of(values))
        for part, generator in zip(parts, self.generators, strict=True):
            part.bernoulli_(1 - self.p, generator=generator)
        return values * kept.div_(1 - self.p)


def _stacked(parameters: Sequence[Tensor]) -> nn.Parameter:
    together = torch.stack([parameter.detach() for parameter in parameters])
    return nn.Parameter(together, requires_grad=parameters[0].requires_grad)


class _Products(torch.autograd.Function):
    """x W^T + b of all networks: one batched product for equal numbers of rows, else one each.

    A custom function, because slices in an autograd graph would cost more than the products.
    Padding with zeros to equal numbers of rows was not faster.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weights: Tensor, biases: Tensor | None, sizes: list[int]
    ) -> Tensor:
        """Return (R, E) for values (R, D), weights (F, E, D) and biases (F, E)."""
        ctx.save_for_backward(values, weights)
        ctx.sizes, ctx.biased = sizes, biases is not None
        result = _products(values, weights.mT, sizes)
        if biases is not None:
            for part, bias in zip(result.split_with_sizes(sizes), biases.unbind(0), strict=True):
                part.add_(bias)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of values, weights and biases."""
        values, weights = ctx.saved_tensors
        wanted, sizes = ctx.needs_input_grad, ctx.sizes
        d_values = d_weights = d_biases = None
        if wanted[0]:
            d_values = _products(grad, weights, sizes)
        if wanted[1]:
            d_weights = torch.empty_like(weights)
            parts = (rows.split_with_sizes(sizes) for rows in (grad, values))
            for result, above, below in zip(d_weights.unbind(0), *parts, strict=True):
                torch.mm(above.mT, below, out=result)
        if ctx.biased and wanted[2]:
            d_biases = torch.stack([part.sum(0) for part in grad.split_with_sizes(sizes)])
        return d_values, d_weights, d_biases, None


def _products(values: Tensor, matrices: Tensor, sizes: list[int]) -> Tensor:
    """Return (R, E): rows (R, D) times the (D, E) matrix of their network, from (F, D, E)."""
    result = values.new_empty(values.shape[0], matrices.shape[2])  # no view: it may be overwritten
    if min(sizes) == max(sizes):
        blocks = (len(sizes), sizes[0], -1)
        torch.bmm(values.reshape(blocks), matrices, out=result.view(blocks))
        return result
    parts = (rows.split_with_sizes(sizes) for rows in (values, result))
    for own, out, matrix in zip(*parts, matrices.unbind(0), strict=True):
        torch.mm(own, matrix, out=out)
    return result
