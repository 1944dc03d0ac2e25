"""Mask R-CNN on two processes gives the gradient of one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

TWO_RANKS = """
import sys
sys.path[:0] = ["tests/models/seg"]
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from conftest import make_scene
from test_mask_rcnn import build, total

class Step(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, batch, key):
        return total(self.model.losses(batch, key=key))

batch = make_scene([(64, 64)] * 2, instances=[3, 0])[0]
rank = int(sys.argv[1])
alone = build()
total(alone.losses(batch, key=0)).backward()
expected = [p.grad.clone() for p in alone.parameters()]
dist.init_process_group("gloo", init_method=sys.argv[2], rank=rank, world_size=2)
model = DistributedDataParallel(Step(build()))
for key in range(3):
    model.zero_grad()
    model(batch.picture(rank), key).backward()
    if key == 0:
        for mine, reference in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(mine.grad, reference, rtol=1e-3, atol=1e-5)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_one_without_instances_have_the_gradient_of_one_process(tmp_path):
    command = [sys.executable, "-c", TWO_RANKS]
    ranks = [
        subprocess.Popen([*command, str(rank), f"file://{tmp_path}/store"], cwd=ROOT)
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
