"""Layers of several networks as one, against the layers themselves."""

import pytest
import torch
from torch import nn

from engine.cross_validation.grouped_layers import (
    CannotGroupError,
    GroupedDropout,
    GroupedLinear,
    RowsByNetwork,
)


def rows_of(sizes, bags_each=1):
    rows = RowsByNetwork()
    rows.set(torch.tensor([0, *sizes]).cumsum(0), bags_each)
    return rows


@pytest.mark.parametrize("sizes", [[2, 5, 1, 3], [3, 3, 3, 3], [1, 1, 1, 1]])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_each_layer(sizes, bias):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 4, bias=bias).double() for _ in sizes]
    grouped = GroupedLinear(layers, rows_of(sizes))
    values = torch.randn(sum(sizes), 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(sum(sizes), 4, dtype=torch.float64)
    found = grouped(values)
    found.backward(upstream)
    ours = values.grad.clone()
    values.grad = None
    parts = zip(layers, values.split(sizes), strict=True)
    expected = torch.cat([layer(part) for layer, part in parts])
    expected.backward(upstream)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours, values.grad, rtol=0, atol=1e-12)
    for position, layer in enumerate(layers):
        torch.testing.assert_close(
            grouped.weights.grad[position], layer.weight.grad, rtol=0, atol=1e-12
        )
        if bias:
            torch.testing.assert_close(
                grouped.biases.grad[position], layer.bias.grad, rtol=0, atol=1e-12
            )


def test_rows_of_instances_and_of_bags_are_told_apart():
    """Two networks with two bags each, of 1, 2, 3 and 1 instances."""
    rows = rows_of([1, 2, 3, 1], bags_each=2)
    assert rows.of(torch.zeros(7, 2)) == [3, 4]
    assert rows.of(torch.zeros(4, 2)) == [2, 2]
    with pytest.raises(CannotGroupError, match="neither instances nor bags"):
        rows.of(torch.zeros(5, 2))


def test_what_a_group_cannot_do_is_refused():
    layer = GroupedLinear([nn.Linear(3, 2), nn.Linear(3, 2)], rows_of([2, 1]))
    with pytest.raises(CannotGroupError, match="more than two axes"):
        layer(torch.zeros(3, 1, 3))
    with pytest.raises(CannotGroupError, match="weights of a layer directly"):
        _ = layer.weight


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_draws_what_each_network_draws(p):
    sizes = [40, 3, 17]
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append(torch.get_rng_state())
    generators = [torch.Generator() for _ in sizes]
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
    dropout, values = GroupedDropout(p, generators, rows_of(sizes)), torch.randn(60, 5)
    expected = [[], []]
    for state, part in zip(states, values.split(sizes), strict=True):
        torch.set_rng_state(state)
        for draws in expected:  # the second draw goes on from the first
            draws.append(nn.functional.dropout(part, p))
    for draws in expected:
        assert torch.equal(dropout(values), torch.cat(draws))
    assert torch.equal(dropout.eval()(values), values)
