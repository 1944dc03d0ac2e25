"""The processes of a job, on one process; several are in tests/processes."""

import torch

from structures.processes import (
    gather_to_all,
    gather_to_first,
    mean_over_processes,
    rank_and_world_size,
    sum_over_processes,
    world_size,
)


def test_one_process_is_its_own_whole():
    values = torch.tensor([1.0, 2.0])
    assert world_size() == 1
    assert gather_to_all(None) == [None]
    assert gather_to_first({"a": 1}) == [{"a": 1}]
    assert mean_over_processes(values) is values
    assert sum_over_processes(values) is values


def test_rank_and_number_of_processes_come_from_torch(tmp_path):
    assert rank_and_world_size() == (0, 1)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert rank_and_world_size() == (0, 1)
    finally:
        torch.distributed.destroy_process_group()
