"""The run that a checkpoint continues."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from formats.weights.files import read_file


@dataclass(frozen=True, slots=True)
class Continuation:
    """Where a resumed training goes on.

    Attributes:
        folder: the run's folder.
        step: optimizer steps that the checkpoint has behind it.
    """

    folder: Path
    step: int


def continuation(checkpoint: Path) -> Continuation | None:
    """Return the run that a checkpoint belongs to if the run can go on in its own folder.

    That is so where the file lies in ``<run>/checkpoints/`` and ``last.ckpt`` beside it is not
    further: going back to an earlier checkpoint must not overwrite what came after it.  # A74
    """
    if checkpoint.resolve().parent.name != "checkpoints":
        return None
    step = int(read_file(checkpoint).get("global_step", 0))
    last = checkpoint.with_name("last.ckpt")
    if last.is_file() and int(read_file(last).get("global_step", 0)) > step:
        return None
    return Continuation(checkpoint.parent.parent, step)
