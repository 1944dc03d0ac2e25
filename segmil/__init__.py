"""Trained models in a program of your own; `docs/evaluation.md` has examples."""

from pathlib import Path
from typing import Any

from segmil.own_packages import check_packages

__all__ = ["load"]


def load(checkpoint: str | Path, device: str = "auto") -> Any:
    """Return the trained model of a checkpoint, ready to predict.

    Args:
        checkpoint: file written by ``segmil-train fit`` or ``python train.py fit``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` is CUDA where there is a device.

    Returns:
        A `segmil.trained.ImageModel` or, if it was trained on bags, a `segmil.trained.BagModel`.

    Raises:
        ImportError: another package hides one of ours.
        ValueError: the file is missing, broken, or not a checkpoint.
    """
    check_packages()
    from engine.deploy.single import restored_on
    from segmil.trained import BagModel, ImageModel

    restored = restored_on(Path(checkpoint), device)
    return (ImageModel if "category_map" in restored.facts else BagModel)(restored)
