"""Commands as processes that are forked from one new process, which imports what takes seconds.

``python -m tests.support.forked`` reads jobs from standard input and prints their exit codes.
"""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What commands import, when they need it.
IMPORTED = (
    "torch", "engine.training.command_line", "train", "matplotlib.pyplot", "sklearn.datasets",
    "sklearn.metrics", "scipy.stats", "timm", "hotcoco", "wandb",
)  # fmt: skip


@dataclasses.dataclass
class Job:
    """A command of ``train.py`` or ``evaluate.py``, the files it prints to, and its environment."""

    words: list[str]
    out: str
    err: str
    program: str = "train"
    environment: dict[str, str] = dataclasses.field(default_factory=dict)


def run(jobs, together=False, environment=None):
    """Run jobs one after the other, or all at once, and return their exit codes.

    What the imports print is in the files of the first job, too.
    """
    content = {"jobs": [dataclasses.asdict(job) for job in jobs], "together": together}
    base = (environment or dict(os.environ)) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.forked"],
        input=json.dumps(content), capture_output=True, text=True, check=False, env=base,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *imported, codes = done.stdout.splitlines()
    first = jobs[0]
    for path, text in ((first.out, "\n".join(imported)), (first.err, done.stderr)):
        Path(path).write_text(text + Path(path).read_text())
    return json.loads(codes)


def _start(job):
    """Fork a process that runs the command; return its number."""
    number = os.fork()
    if number:
        return number
    for descriptor, name in enumerate((os.devnull, job.out, job.err)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if descriptor else os.O_RDONLY
        os.dup2(os.open(name, flags), descriptor)
    os.environ.update(job.environment)
    from lightning_fabric.utilities import rank_zero

    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0  # as an import would find it
    sys.argv = [str(ROOT / f"{job.program}.py"), *job.words]
    sys.exit(importlib.import_module(job.program).main(job.words))  # what runs at exit, runs


def _wait(number):
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def main():
    """Run the jobs of standard input."""
    content = json.loads(sys.stdin.read())
    jobs = [Job(**job) for job in content["jobs"]]
    for name in IMPORTED:
        importlib.import_module(name)
    sys.stdout.flush()
    if content["together"]:
        codes = [_wait(number) for number in [_start(job) for job in jobs]]
    else:
        codes = [_wait(_start(job)) for job in jobs]
    sys.stdout.write(json.dumps(codes) + "\n")


if __name__ == "__main__":
    main()
