"""A slide of 200 000 patches trains whole, in a process of its own whose memory is measured.

Narrow layers take all of it; the recipe's take a quarter, which shows what each instance costs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STEPS = """
import copy, json
from pathlib import Path
import torch
from tests.support.mil_recipes import module_of, random_bags, settings

def resident(line):
    found = Path("/proc/self/status").read_text().partition(line + ":")[2]
    return int(found.split()[0]) * 1024

def step(module, optimizer, size):
    bags = random_bags([size], width=1024)
    optimizer.zero_grad()
    terms = module.training_terms(bags)
    module.weighted_sum(terms).backward()
    optimizer.step()
    return float(terms["bag"].detach())

def steps(sizes, **widths):
    section = copy.deepcopy(settings("abmil_features")["model"])
    section["init_args"]["model"]["init_args"].update(widths)
    module = module_of(section, 1024, 2, "binary").train()
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-4)
    step(module, optimizer, 100)
    found = []
    for size in sizes:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
        loss = step(module, optimizer, size)
        finite = all(bool(p.grad.isfinite().all()) for p in module.parameters())
        increase = (resident("VmHWM") - before) / size
        found.append({"increase": increase, "loss": loss, "finite": finite})
    return found

wide = steps([50_000])  # first, so that no freed memory is counted as there before
print(json.dumps(wide + steps([50_000, 200_000], hidden_sizes=[32], attention_dim=16)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_bag_of_200_000_instances_needs_less_than_4_gib_in_abmil():
    """The increase, in bytes an instance, holds the features themselves, 4 096.

    It hardly differs between small and large bags (which freed blocks are used again decides the
    rest), so that four times what 50 000 instances take in layers of the recipe's widths, times
    that difference, is what 200 000 would.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STEPS],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wide, small, large = found = json.loads(done.stdout.splitlines()[-1])
    for each in found:
        assert each["finite"]
        assert 0 < each["loss"] < 10
        assert each["increase"] > 1024 * 4  # it was measured at all
    growth = large["increase"] / small["increase"]
    assert growth < 1.2  # a term of n^2 would make it 4
    needed = wide["increase"] * max(growth, 1.0)
    assert 200_000 * needed < 4 * 2**30, f"{needed:.0f} bytes an instance"
