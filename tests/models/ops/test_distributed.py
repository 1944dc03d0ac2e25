"""Denominators of losses, in one process and in two."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.ops.distributed import LossTerm, global_mean_count, reduce_terms, sum_by_picture

ROOT = Path(__file__).resolve().parents[3]
TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
from models.ops.distributed import LossTerm, global_mean_count, reduce_terms
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
count = global_mean_count(torch.tensor([[6, 0], [0, 0]][rank]))
assert count.tolist() == [3.0, 0.5], count
# rank 0: sums 4 over 6 elements, rank 1: sum 5 over no element of its own
total = torch.tensor([[4.0, 0.0], [5.0, 0.0]][rank], requires_grad=True)
terms = {"a": LossTerm(total, torch.tensor([[4, 2], [0, 0]][rank]))}
loss = reduce_terms(terms, "mean")["a"]
dist.all_reduce(loss)
assert abs(loss.item() / 2 - 9 / 6) < 1e-6, loss  # the mean over processes is the global mean
assert reduce_terms(terms, "none")["a"].tolist() == [[1.0, 0.0], [5.0, 0.0]][rank]
dist.destroy_process_group()
"""


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


def test_sum_by_picture():
    values = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    sums = sum_by_picture(values, torch.tensor([2, 0, 2]), 4)
    assert sums.tolist() == [2.0, 0.0, 5.0, 0.0]
    sums[2].backward()
    assert values.grad.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.slow
def test_two_processes(tmp_path):
    command = [sys.executable, "-c", TWO_PROCESSES]
    workers = [
        subprocess.Popen([*command, str(rank), f"file://{tmp_path}/store"], cwd=ROOT)
        for rank in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]


def test_no_collective_where_gradients_are_off(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)

    def refuse(*_):
        raise AssertionError("a collective in evaluation may wait for ever")

    monkeypatch.setattr(torch.distributed, "all_reduce", refuse)
    with torch.no_grad():
        assert global_mean_count(torch.tensor([0, 3])).tolist() == [1, 3]
