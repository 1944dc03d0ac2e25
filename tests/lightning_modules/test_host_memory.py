"""Memory that is freed stays with the process."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from lightning_modules.host_memory import keep_freed_memory
if len(sys.argv) > 1:
    assert keep_freed_memory()
import torch
def pages():
    with open("/proc/self/stat") as file:
        return int(file.read().rpartition(")")[2].split()[7])  # minor faults
torch.ones(2**24).sum()
before = pages()
for _ in range(5):
    torch.ones(2**24)
print(pages() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_blocks_are_used_again():
    """64 MiB are 16 384 pages of 4 KiB, fewer if the system uses larger ones."""
    counts = [
        int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, *word], check=True, capture_output=True
            ).stdout
        )
        for word in ([], ["keep"])
    ]
    assert counts[1] < counts[0] / 4
