"""Denominators of losses on one process; several are in tests/processes."""

import torch

from models.ops.distributed import LossTerm, global_mean_count, reduce_terms, sum_by_image


def test_reduce_terms_by_hand():
    terms = {
        "a": LossTerm(torch.tensor([6.0, 1.0]), torch.tensor([3, 1])),
        "b": LossTerm(torch.tensor([0.0, 0.0]), torch.tensor([0, 0])),
    }
    mean, none = reduce_terms(terms, "mean"), reduce_terms(terms, "none")
    assert {name: value.item() for name, value in mean.items()} == {"a": 1.75, "b": 0.0}
    assert none["a"].tolist() == [2.0, 1.0]
    assert none["b"].tolist() == [0.0, 0.0]


def test_count_in_one_process():
    assert global_mean_count(torch.tensor([0, 5])).tolist() == [1.0, 5.0]


def test_sum_by_image():
    values = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    sums = sum_by_image(values, torch.tensor([2, 0, 2]), 4)
    assert sums.tolist() == [2.0, 0.0, 5.0, 0.0]
    sums[2].backward()
    assert values.grad.tolist() == [1.0, 0.0, 1.0]


def test_no_collective_where_gradients_are_off(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)

    def refuse(*_):
        raise AssertionError("a collective in evaluation may wait for ever")

    monkeypatch.setattr(torch.distributed, "all_reduce", refuse)
    with torch.no_grad():
        assert global_mean_count(torch.tensor([0, 3])).tolist() == [1, 3]
