"""Bags of whole slides, whose features are extracted before they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.mil.features import FeatureBagsDataModule


class SlideBagsDataModule(FeatureBagsDataModule):
    """Bags of the slides of a folder, for `train.py predict --data.slides`.

    When it is built, the feature files are there: `engine.training.from_slides` has extracted what
    was missing.

    Args:
        table: the CSV with ``slide_id`` and, optionally, ``mpp``; see `FeatureBagsDataModule`.
        slides: folder of the slide files, with its subfolders.
        features: folder of the feature files, to which missing ones are written; null for
            ``predictions/features`` of the run.
        encoder_weights: source of the encoder's weights, if the training read them from a file.
        tissue_outlines: folder with the outlines ``<slide_id>.geojson`` of each slide, in place of
            the training's way to find tissue.
        extraction_batch_size: patches that the encoder is given at once.
        extraction_workers: worker processes that read patches.
        left_out: slides of the table that are not used, because their extraction failed.
        **shared: the arguments of `FeatureBagsDataModule`.

    Raises:
        ValueError: see `FeatureBagsDataModule`.
    """

    def __init__(
        self,
        table: Path,
        slides: Path,
        features: Path | None = None,
        *,
        encoder_weights: str | None = None,
        tissue_outlines: Path | None = None,
        extraction_batch_size: int = 64,
        extraction_workers: int = 2,
        left_out: Sequence[str] = (),
        **shared: Any,
    ) -> None:
        del encoder_weights, tissue_outlines, extraction_batch_size, extraction_workers
        self.left_out = frozenset(left_out)
        super().__init__(table, features, **shared)
        self.slide_folder = Path(slides)
