"""A mistake that stops every process of a job is told by one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# The first process starts the second; both make the mistake, or the second alone does. Processes
# are copies of one that has imported what takes seconds; each loads the module in question anew.
JOBS = """
import importlib, json, os, sys
from pytorch_lightning.utilities import rank_zero_only
from engine.config import errors

def copied(function, *arguments):
    if (number := os.fork()) == 0:
        os._exit(function(*arguments))
    return number

def mistake(rank, patience):
    errors.report_once(f"error: said by {rank}\\n", patience)
    sys.stderr.flush()
    return 2

def second(patience, ready):
    importlib.reload(errors)
    rank_zero_only.rank = 1
    os.write(ready, b"r")
    return mistake(1, patience)

def first(alone, patience, stderr):
    os.dup2(stderr, 2)
    importlib.reload(errors)
    wait, ready = os.pipe()
    other = copied(second, patience, ready)
    os.read(wait, 1)
    if not alone:
        return mistake(0, patience)
    return os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) + 40

def told(alone, patience):
    ours, theirs = os.pipe()
    job = copied(first, alone, patience, theirs)
    os.close(theirs)
    with open(ours) as stream:
        text = stream.read()  # until the last of the two has ended
    return text, os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])

print(json.dumps({"both": told(False, 30), "alone": told(True, 0.5)}))
"""


@pytest.fixture(scope="module")
def jobs():
    command = [sys.executable, "-c", JOBS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "told", "code"),
    [("both", "error: said by 0\n", 2), ("alone", "error: said by 1\n", 42)],
)
def test_who_speaks(jobs, who, told, code):
    assert jobs[who] == [told, code]
