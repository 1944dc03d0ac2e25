"""What a command says and returns when a signal ended it."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path


class TrainingStopped(SystemExit):
    """A signal ended a training; the exit code is 128 plus its number, as in a shell."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(128 + number)


def was_interrupted(stop: SystemExit) -> bool:
    """Return whether Lightning turned a Ctrl-C into this exit."""
    return isinstance(stop.__context__, KeyboardInterrupt)


def stop_message(number: signal.Signals, step: int, last: Path | None, run_dir: Path) -> str:
    """Return where a training stopped and the command that resumes it.

    Args:
        number: the signal.
        step: optimizer steps that were made.
        last: ``last.ckpt``; None if nothing was written.
        run_dir: folder of the run.
    """
    stopped = f"stopped by {number.name} after step {step}"
    if last is None:
        return f"{stopped}; no checkpoint was written\n"
    words = ["fit", "--ckpt_path", str(last)]
    if last.absolute().parent.parent != run_dir.absolute():
        words += ["--config", str(run_dir / "config.yaml")]
    return f"{stopped}; to resume:\n  {program()} {shlex.join(words)}\n"


def program() -> str:
    """Return the words by which the user started this program."""
    name = Path(sys.argv[0]).name
    return name if name.startswith("segmil-train") else "python train.py"
