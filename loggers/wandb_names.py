"""Names of W&B runs: after their run folders, which also keep their ids."""

from __future__ import annotations

from pathlib import Path

RUN_ID_FILE = "wandb_run_id"  # in the run folder


def display_name(run_dir: Path) -> str:
    """Return ``name/version``, or ``name/version/stage`` for a run inside another run's folder."""
    return "/".join(run_dir.parts[-3 if _is_stage(run_dir) else -2 :])


def group_name(run_dir: Path) -> str:
    """Return the group of a training without one: its own name, that of the run for a stage.

    Evaluations of its checkpoints join it there (A846).
    """
    return display_name(run_dir.parent if _is_stage(run_dir) else run_dir)


def run_id_of(checkpoint: Path) -> str | None:
    """Return the id of the W&B run that wrote a checkpoint; None if there was none."""
    file = checkpoint.resolve().parent.parent / RUN_ID_FILE
    return file.read_text().strip() if file.is_file() else None


def _is_stage(run_dir: Path) -> bool:
    """Return whether a run folder is inside that of another run."""
    return (run_dir.parent / "config.yaml").is_file()
