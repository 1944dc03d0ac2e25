"""Lightning for the commands that read a recipe or restore a checkpoint."""

from __future__ import annotations


def import_lightning() -> None:
    """Import Lightning, which takes long, without the matplotlib that torchmetrics plots with."""
    from structures.lean_import import without

    with without("matplotlib"):
        import pytorch_lightning  # noqa: F401
