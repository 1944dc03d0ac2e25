"""Jobs of Slurm that are requeued: the same job continues its own run and no other."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.checkpoints.stages import FOLDER, unfinished_stage
from loggers.provenance import PROVENANCE_FILE

JOB = "slurm_job"  # in the provenance of a run
_SECONDS = 60.0


def job_id() -> str | None:
    """Return the id of this job of Slurm, of an array with the task's number; None elsewhere."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    return os.environ.get("SLURM_JOB_ID") or None


def run_of_job(runs: Path, command: Sequence[str]) -> Path | None:
    """Return ``last.ckpt`` of the run that this job began by the same command, else None.

    Args:
        runs: folder of the runs ``version_0``, ``version_1``, ...
        command: words of the command line.
    """
    job = job_id()
    if job is None:
        return None
    for folder in _latest_first(runs):  # A434
        records = (folder / PROVENANCE_FILE, folder / FOLDER / PROVENANCE_FILE)
        known = [json.loads(file.read_text()) for file in records if file.is_file()]
        last = unfinished_stage(folder / "checkpoints" / "last.ckpt")
        mine = any(r.get(JOB) == job and r["command"] == " ".join(command) for r in known)
        if mine and last.is_file():
            return last
    return None


def requeue() -> str:
    """Have Slurm run this job again, and return what became of it as a sentence."""
    job = str(job_id())
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} could not be requeued: {error}"
    reason = (done.stderr or done.stdout).strip()
    return (
        f"job {job} could not be requeued: {reason}" if done.returncode else f"requeued job {job}"
    )


def _latest_first(runs: Path) -> Iterator[Path]:
    numbers = [p.name.removeprefix("version_") for p in runs.glob("version_*")]
    for number in sorted((int(n) for n in numbers if n.isdigit()), reverse=True):
        yield runs / f"version_{number}"
