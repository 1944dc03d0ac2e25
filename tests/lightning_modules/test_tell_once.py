"""A mistake that stops every process of a job is told by one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The first process starts the second; both make the mistake, or the second alone does.
JOB = """
import subprocess, sys
from pytorch_lightning.utilities import rank_zero_only
from lightning_modules.errors import tell_once
rank, alone = int(sys.argv[1]), sys.argv[2] == "alone"
rank_zero_only.rank = rank
if rank == 0:
    command = [sys.executable, "-c", sys.argv[3], "1", sys.argv[2], ""]
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    other.stdout.readline()
else:
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
if rank == 1 or not alone:
    tell_once(f"error: said by {rank}\\n", patience=3)
    sys.exit(2)
sys.exit(other.wait() + 40)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "told", "code"),
    [("both", "error: said by 0\n", 2), ("alone", "error: said by 1\n", 42)],
)
def test_who_speaks(who, told, code):
    command = [sys.executable, "-c", JOB, "0", who, JOB]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == (told, code)
