"""Default names of runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

TESTED = "_test"  # end of the name of a test's folder


def run_name(command: str, recipe: str, checkpoint: Path | None) -> str:
    """Return the name of a run that the user has not named (A453).

    A test gets a folder of its own, so that it does not take a number among the trainings of its
    recipe: that of ``runs/abmil/version_3/checkpoints/best.ckpt`` is ``abmil_test``.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        recipe: name of the recipe.
        checkpoint: the checkpoint, or None.

    >>> run_name("test", "config", Path("runs/abmil/version_3/checkpoints/best.ckpt"))
    'abmil_test'
    >>> run_name("test", "abmil", None), run_name("fit", "abmil", None)
    ('abmil_test', 'abmil')
    """
    if command != "test":
        return recipe
    folders = [] if checkpoint is None else checkpoint.resolve().parents
    return _run_of(folders, recipe).removesuffix(TESTED) + TESTED


def recipe_name(files: Sequence[Path]) -> str:
    """Return the name of a recipe: the stem of its first file, or the run whose copy that is.

    Args:
        files: the recipe and its overlays.

    >>> recipe_name([Path("configs/mil/abmil.yaml")])
    'abmil'
    >>> recipe_name([Path("runs/abmil/version_3/config.yaml")])
    'abmil'
    """
    if not files:
        return "run"
    copied = files[0].name == "config.yaml"
    return _run_of(files[0].resolve().parents if copied else (), files[0].stem)


def run_folder(checkpoint: Path) -> Path:
    """Return the run folder of a checkpoint, or the folder of a file that is in none.

    >>> run_folder(Path("runs/abmil/version_3/checkpoints/best.ckpt")).name
    'version_3'
    """
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder


def model_name(checkpoint: Path) -> str:
    """Return the name of a checkpoint in tables: that of its run, or of its file (A690).

    >>> model_name(Path("runs/abmil/version_3/checkpoints/best.ckpt"))
    'abmil'
    >>> model_name(Path("runs/mine/checkpoints/last.ckpt")), model_name(Path("models/a.ckpt"))
    ('mine', 'a')
    """
    run = run_folder(checkpoint)
    if run == checkpoint.absolute().parent:
        return checkpoint.stem
    return run.parent.name if run.name.startswith("version_") else run.name


def _run_of(folders: Iterable[Path], other: str) -> str:
    """Return the name of the run that has one of the folders, else ``other``."""
    names = (folder.parent.name for folder in folders if folder.name.startswith("version_"))
    return next(names, other)
