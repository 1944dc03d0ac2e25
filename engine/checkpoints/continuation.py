"""The run that a checkpoint continues."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from formats.weights.files import read_file


@dataclass(frozen=True, slots=True)
class Continuation:
    """Folder and step of a resumed training.

    Attributes:
        folder: the run's folder.
        step: number of optimizer steps at the checkpoint.
    """

    folder: Path
    step: int


def continuation(checkpoint: Path) -> Continuation | None:
    """Return the run of a checkpoint if training can continue in the same folder, else None.

    The file must be in ``<run>/checkpoints/`` and ``last.ckpt`` must not have more steps: resuming
    from an earlier checkpoint must not overwrite later results.  # A74
    """
    if checkpoint.resolve().parent.name != "checkpoints":
        return None
    step = int(read_file(checkpoint).get("global_step", 0))
    last = checkpoint.with_name("last.ckpt")
    if last.is_file() and int(read_file(last).get("global_step", 0)) > step:
        return None
    return Continuation(checkpoint.parent.parent, step)
