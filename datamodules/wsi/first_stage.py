"""Slides whose features are extracted as those of a training were, to be predicted at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.mil.slide_table import is_slide_name
from datamodules.wsi.base import SlideDataModule
from datamodules.wsi.finished import differing_settings
from formats.slide_features import short


class SlidesToPredict(SlideDataModule):
    """Slides of a table, of which those without features are extracted as for a training.

    Also a slide that has features has to be in the folder, to be compared with them (A666).

    Args:
        slides: folder of the slide files, with its subfolders.
        features: folder of the feature files; those that are there have to be as the training's.
        table: CSV with ``slide_id`` and, optionally, ``mpp``.
        weights_sha256: hash of the weights of the training's encoder.
        settings: ``settings`` of the training's feature files, JSON.
        options: further arguments of `SlideDataModule`.

    Raises:
        ValueError: see `SlideDataModule`.
    """

    continues = True
    remedy = "name another folder by --data.features, or delete the file to extract it again"

    def __init__(
        self,
        slides: Path,
        features: Path,
        table: Path,
        weights_sha256: str,
        settings: str,
        **options: Any,
    ) -> None:
        super().__init__(slides, features, table, **options)
        self._weights_sha256, self._wanted = weights_sha256, json.loads(settings)
        self.after_stop = (
            f"with --data.features {features} the same command goes on with the slides that are "
            "left"
        )

    def check_settings(self, settings: Mapping[str, Any], encoder: Mapping[str, Any]) -> None:
        """Refuse what differs from the training: features must not depend on who extracts them.

        Raises:
            ValueError: the weights or a setting differ; the tissue may, where it is outlined.
        """
        found = encoder["weights_sha256"]
        if found != self._weights_sha256:
            raise ValueError(
                f"the weights of {encoder['encoder']} have the hash {short(found)}, those of the "
                f"training {short(self._weights_sha256)} (weights_sha256 in the feature files); "
                "give the training's weights by --data.encoder_weights FILE"
            )
        own = {} if self.tissue_outlines is None else {"tissue": settings["tissue"]}
        differences = [
            f"{name} {short(ours)} in place of {short(theirs)}"
            for name, theirs, ours in differing_settings({**self._wanted, **own}, settings)
        ]
        if differences:
            raise ValueError(
                f"features would be extracted with {', '.join(differences)} of the training; use "
                "the version of segmil that has extracted the training's features"
            )

    def file_of(self, slide_id: str) -> Path:
        """Return the feature file of a slide, also where that is named without the suffix."""
        named = super().file_of(slide_id)
        other = self.features / f"{Path(slide_id).stem}.h5"
        found = is_slide_name(slide_id) and not named.exists() and other.exists()
        return other if found else named
