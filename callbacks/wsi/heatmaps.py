"""Maps of what a model sees in whole slides: images, and objects for QuPath."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.mil.bag_outputs import bag_name
from callbacks.mil.slide_parts import SlidePart, slide_parts, slide_source
from evaluation.report.attention_map import patch_side
from evaluation.wsi.heatmap import Place
from evaluation.wsi.heatmap_image import PATCH, ScoreMap, draw_extremes, draw_maps
from evaluation.wsi.slide_objects import (
    PlacedPatches,
    Region,
    detections_of,
    objects_of,
    regions_of,
)
from formats.detections_csv import write_detections
from formats.slides.overview import overview
from formats.slides.pyramid import SUFFIXES, SlideFile, find_slides, open_slide
from formats.slides.qupath import write_objects
from formats.slides.resolution import PatchReader
from loggers.run_files import run_folder, write_png
from structures import BagBatch, MILOutput
from structures.processes import gather_to_first

Score = Literal["attention", "instance_logits", "leave_one_out"]
_NAMED = 3  # slides without maps that a warning names
_NO_COORDINATES = "its features have no coordinates"


class Heatmaps(pl.Callback):
    """Draw maps of `test` and `predict` over whole slides, and write them for QuPath.

    For each slide of the folder ``slides``, or of the datamodule's ``slide_folder``, if the patches
    have coordinates:
        ``<slide_id>.png``: the map over a small image of the slide, whose top-left corner is that
        of the slide's bounds; right of it a bar that says what is shown, then the same by rank; a
        row for each class. The PNG texts ``downsample``, ``x`` and ``y`` say where it lies.
        ``<slide_id>_top.png``: patches with the highest and the lowest scores.
        ``<slide_id>.geojson``: all patches with scores and ranks, and regions of patches above
        ``region_rank``, see `formats.slides.qupath`.
        ``detections/<slide_id>.csv``, for one map of a binary task: the peak of each region, see
        `evaluation.wsi.slide_objects.detections_of`.

    The slides of a patient's bag have files of their own. Scores, ranks and colours are those of
    the bag, so that the slides can be compared (A670).

    A slide that cannot be drawn is named in a warning at the end, and the others go on, also those
    of the same patient (A671).

    Args:
        slides: folder of the slide files, found by slide id; None for the one that the datamodule
            knows, and without it nothing is drawn.
        score: ``attention``; ``instance_logits``; or ``leave_one_out``, what the logit loses
            without the patch.
        output_dir: folder to write to; None for ``<run>/predictions/heatmaps``.
        pixels: longest side of the small image.
        top: patches in a row of ``<slide_id>_top.png``.
        region_rank: rank in [0, 1] that the patches of regions exceed.

    Raises:
        ValueError: an argument is out of range, there is no such folder, or the model has no such
            scores.
    """

    entry = "heatmaps"
    order = 122

    def __init__(
        self,
        slides: Path | None = None,
        score: Score = "attention",
        output_dir: Path | None = None,
        pixels: int = 1024,
        top: int = 8,
        region_rank: float = 0.95,
    ) -> None:
        if score not in get_args(Score):
            raise ValueError(f"score is one of {', '.join(get_args(Score))}, got {score!r}")
        if pixels < 64 or top < 1 or not 0 <= region_rank < 1:
            raise ValueError(
                "pixels must be at least 64, top at least 1 and region_rank in [0, 1), got "
                f"{pixels}, {top} and {region_rank}"
            )
        self.slides, self.score, self.output_dir = slides, score, output_dir
        self.pixels, self.top, self.region_rank = pixels, top, region_rank
        self._place: Path | None = None  # of the slide files
        self._files: dict[str, Path] = {}
        self._folder: Path | None = None
        self._faults: dict[str, str] = {}  # why a slide has no map
        self._missing = False  # whether maps could be drawn if the slides were known
        self._drawn = 0  # slides

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the slides, and refuse a score that the model does not have."""
        self._files, self._faults, self._missing, self._drawn = {}, {}, False, 0
        data: Any = getattr(trainer, "datamodule", None)
        known = self.slides or getattr(data, "slide_folder", None)
        self._place = None if known is None else Path(known)
        if stage not in ("test", "predict") or self._place is None:
            return
        self._files = find_slides(self._place)
        model = pl_module.model
        if self.score == "leave_one_out" and getattr(model, "leave_one_out", None) is None:
            raise self._refusal(type(model).__name__)

    def _refusal(self, model: str) -> ValueError:
        others = ", ".join(name for name in get_args(Score) if name != self.score)
        return ValueError(
            f"callbacks.heatmaps.score {self.score}: {model} has none; choose one of {others}"
        )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the folder to write to."""
        self._begin(trainer)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the folder to write to."""
        self._begin(trainer)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the slides of the batch."""
        self._draw_batch(trainer, pl_module, outputs, batch, "test")

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the slides of the batch."""
        self._draw_batch(trainer, pl_module, outputs, batch, "predict")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what was not drawn."""
        self._report(trainer)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what was not drawn."""
        self._report(trainer)

    def _begin(self, trainer: pl.Trainer) -> None:
        default = run_folder(trainer, "predictions")
        named = None if default is None else default / "heatmaps"
        self._folder = named if self.output_dir is None else Path(self.output_dir)

    def _draw_batch(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        split: str,
    ) -> None:
        if not isinstance(batch, BagBatch) or self._folder is None:
            return
        source = slide_source(getattr(trainer, "datamodule", None), split)
        if source is None:
            return
        bags = [slide_parts(source, batch, b) for b in range(len(batch))]
        placed = any(part.coords is not None for parts in bags for part in parts)
        if self._place is None:
            self._missing |= placed
            return
        if self.slides is None and self.score == "attention" and outputs.attention is None:
            why = "the model has no attention, choose another callbacks.heatmaps.score"
            self._faults |= {bag_name(batch, b): why for b in range(len(batch))}
            return  # no error, since nobody has asked for these maps
        scores = None
        if placed:
            scores = self._scores(pl_module, outputs, batch).detach().double().cpu().numpy()
        task: Any = pl_module.task
        chances = outputs.probabilities(task).tolist() if task == "binary" else None
        offsets = batch.offsets.tolist()
        for b, parts in enumerate(bags):
            bag = (
                [] if scores is None else self._maps(pl_module, scores[slice(*offsets[b : b + 2])])
            )
            chance = None if chances is None or len(bag) != 1 else chances[b]
            for part in parts:
                self._draw_part(part, bag, bag_name(batch, b), chance)

    def _draw_part(
        self, part: SlidePart, bag: list[ScoreMap], patient: str, chance: float | None
    ) -> None:
        """Draw a slide of a bag, or keep why that is not possible.

        Args:
            part: the slide.
            bag: the scores of the bag.
            patient: name of the bag.
            chance: probability of class 1 of the bag, for one map of a binary task; else None.
        """
        if part.coords is None:
            self._faults[part.slide] = _NO_COORDINATES
            return
        if part.coords.dtype.kind == "f":  # micrometres, such as those of STAMP  # A403
            self._faults[part.slide] = "its coordinates are no whole pixels of level 0"
            return
        assert self._folder is not None
        coords = part.coords.astype(np.float64)
        patches = PlacedPatches(coords, part.patch_side or patch_side(coords))  # A452
        maps = [one.of_slide(part.rows) for one in bag]
        regions = regions_of(patches, maps, self.region_rank)
        title = part.slide if patient == part.slide else f"{part.slide} of {patient}"
        drawn = self._draw_slide(part.slide, title, patches, maps, regions)
        self._drawn += drawn
        if drawn and chance is not None:
            place = self._folder / "detections" / f"{part.slide}.csv"
            write_detections(place, detections_of(regions, chance))

    def _scores(self, pl_module: pl.LightningModule, output: MILOutput, bags: BagBatch) -> Tensor:
        """Return the scores of the batch, (N, M)."""
        model: Any = pl_module.model
        if self.score == "leave_one_out":
            with torch.no_grad():
                found: Tensor | None = model.leave_one_out(bags)
        else:
            found = getattr(output, self.score)
        if found is None:
            raise self._refusal(type(model).__name__)
        return found.reshape(len(found), -1)

    def _maps(self, pl_module: Any, scores: npt.NDArray[np.float64]) -> list[ScoreMap]:
        """Return a map for each class, or for each branch of attention (A655)."""
        signed, count, classes = self.score != "attention", scores.shape[1], pl_module.class_names
        names = [f"{self.score} {k}" for k in range(count)]
        if count == 1:
            names = [self.score]
        elif signed and len(classes) == count:
            names = [f"{self.score} {name}" for name in classes]
        return [ScoreMap(name, scores[:, k], signed) for k, name in enumerate(names)]

    def _draw_slide(
        self,
        name: str,
        title: str,
        patches: PlacedPatches,
        maps: list[ScoreMap],
        regions: list[Region],
    ) -> bool:
        """Write the files of a slide, or keep why there are none; return whether there are."""
        plain = Path(name).stem if Path(name).suffix.lower() in SUFFIXES else name
        file = self._files.get(name) or self._files.get(plain)
        if file is None:
            self._faults[name] = f"{self._place} has no slide of this name"
            return False
        if not all(np.isfinite(one.values).all() for one in maps):
            self._faults[name] = "a score is not finite"
            return False
        try:
            with open_slide(file) as slide:
                self._write(name, title, slide, patches, maps, regions)
        except (OSError, ValueError) as error:  # a broken slide; the others can be drawn
            self._faults[name] = str(error)
            return False
        return True

    def _write(
        self,
        name: str,
        title: str,
        slide: SlideFile,
        patches: PlacedPatches,
        maps: list[ScoreMap],
        regions: list[Region],
    ) -> None:
        assert self._folder is not None
        if (patches.coords >= slide.size).any():
            raise ValueError(
                f"patches lie beyond the {slide.size[0]} x {slide.size[1]} pixels of {slide.path}; "
                "give the slides that the features are from"
            )
        # In units of level 0, so that the slide's micrometres per pixel need not be known.
        view = overview(slide, 1.0, max(1.0, max(slide.bounds[2:]) / self.pixels))
        place = Place(view.image.shape[:2], view.scale, view.origin)
        text = {"downsample": repr(view.scale), "x": str(view.origin[0]), "y": str(view.origin[1])}
        image = draw_maps(view.image, maps, *patches, place, title)
        px = max(1, min(PATCH, int(patches.side)))
        reader = PatchReader(slide, 1.0, patches.side / px, px)
        extremes = draw_extremes(maps, patches.coords, reader.read, self.top)
        write_png(self._folder / f"{name}.png", image, compression=3, text=text)
        write_png(self._folder / f"{name}_top.png", extremes, compression=3)
        objects = objects_of(patches, maps, regions)
        write_objects(self._folder / f"{name}.geojson", objects, slide.bounds[:2])

    def _report(self, trainer: pl.Trainer) -> None:
        gathered = gather_to_first((self._faults, self._missing, self._drawn))
        if not trainer.is_global_zero or self._folder is None:
            return
        faults = {slide: why for own, _, _ in gathered for slide, why in own.items()}
        drawn = sum(drawn for _, _, drawn in gathered)
        unplaced = all(why == _NO_COORDINATES for why in faults.values())
        if self._place is not None and not drawn and unplaced:
            faults = {}
            rank_zero_warn(
                "heatmaps: nothing was drawn, because no bag is a slide whose patches have "
                "coordinates"
            )
        if any(missing for _, missing, _ in gathered):
            rank_zero_info(
                "No maps over slides were drawn; give --callbacks.heatmaps.slides DIR, the folder "
                "of the slide files (or --data.slides DIR of `predict`)"
            )
        if faults:
            named = "; ".join(f"{slide}: {why}" for slide, why in [*faults.items()][:_NAMED])
            more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
            rank_zero_warn(f"heatmaps: {len(faults)} not drawn: {named}{more}")
