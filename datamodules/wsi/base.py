"""Slides that are cut into patches, whose features `train.py predict` writes to files."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch.utils.data import DataLoader

from datamodules.wsi.finished import REMEDY, finished_file
from datamodules.wsi.patches import PatchImages
from datamodules.wsi.planning import Patching, PatchSampler, Plan
from datamodules.wsi.shards import balanced, read_shard
from datamodules.wsi.slide_list import (
    SlideEntry,
    SlideHeader,
    list_slides,
    read_headers,
    slide_problem,
)
from datamodules.wsi.staging import Stage
from datamodules.wsi.stain import Stain
from datamodules.wsi.tissue import OtsuTissue, Tissue
from formats.files import file_hash
from formats.slide_features import SlideAttributes
from formats.slides.pyramid import slide_bytes, slide_fingerprint
from structures import BadDataPolicy, DataProblems, PatchBatch, Problem, settle


class SlideDataModule(pl.LightningDataModule):
    """The tissue patches of whole slides, slide after slide.

    The constructor opens the header of every slide, so that nothing begins before all of them can
    be read at the resolution. `setup` leaves out the slides whose feature files are finished.
    Processes take slides of their own.

    Args:
        slides: folder of the slide files, with its subfolders.
        features: folder for the feature files, ``<slide_id>.h5``.
        table: CSV with ``slide_id`` and, optionally, ``mpp``; null for all slides of the folder.
        mpp: micrometres per pixel of the patches.
        patch_px: side of a patch in pixels; null for the input size of the encoder.
        tissue: finds the tissue of a slide; null for ``OtsuTissue`` with its defaults.
        tissue_outlines: folder with the outlines ``<slide_id>.geojson`` of each slide, see
            `datamodules.wsi.outlines`, in place of ``tissue``.
        min_tissue: least share of a patch that is tissue, in [0, 1].
        stain: normalises the stain of each slide, such as ``datamodules.wsi.stain.Macenko``; null
            to leave it.
        augmented: number of augmented versions of each patch whose features are written besides.
        batch_size: patches that the encoder is given at once.
        num_workers: worker processes that read patches.
        bad_data: how slides that cannot be read are handled. ``error``: nothing begins if a header
            is faulty, and exit code 2 at the end if a slide failed later; ``skip``: they are left
            out.
        shard: ``NUMBER/COUNT``: the slides of one of several parts of about as many bytes, for
            machines that share the folder ``features`` and nothing else; null for all slides.
        stage: folder on a quick disk to which slides are copied before they are read, and from
            which they are removed afterwards; null to read them where they are.

    Attributes:
        headers: the slides that can be read, of the shard if there is one.
        names: the slides of all shards.
        problems: problems of the slides that ``skip`` has left out.
        finished: slides that have a file, by name, with the number of patches; after `setup`.
        todo: the slides that this process reads; after `setup`.

    Raises:
        ValueError: a slide or the table is faulty, or an argument is out of range.
    """

    extracts = True  # the callback that writes the files looks for it
    continues = False  # whether the same command goes on with the features
    outputs = ("features",)
    remedy = REMEDY  # for files that were made otherwise
    after_stop = "the same command goes on with the slides that are left"

    def __init__(
        self,
        slides: Path,
        features: Path,
        table: Path | None = None,
        *,
        mpp: float = 0.5,
        patch_px: int | None = None,
        tissue: Tissue | None = None,
        tissue_outlines: Path | None = None,
        min_tissue: float = 0.25,
        stain: Stain | None = None,
        augmented: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
        bad_data: BadDataPolicy = "error",
        shard: str | None = None,
        stage: Path | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("augmented", augmented, 0),
            ("patch_px", 1 if patch_px is None else patch_px, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 <= min_tissue <= 1:
            raise ValueError(f"min_tissue must be in [0, 1], got {min_tissue}")
        if not 0.05 <= mpp <= 20:
            raise ValueError(f"mpp must be micrometres per pixel from 0.05 to 20, got {mpp}")
        self.folder, self.features, self.table = Path(slides), Path(features), table
        self.mpp, self.patch_px, self.min_tissue = mpp, patch_px, min_tissue
        if tissue is not None and tissue_outlines is not None:
            raise ValueError("tissue_outlines replaces tissue; leave one of them out")
        self.tissue: Tissue = OtsuTissue() if tissue is None else tissue
        self.tissue_outlines = None if tissue_outlines is None else Path(tissue_outlines)
        self.stain, self.augmented = stain, augmented
        self.batch_size, self.num_workers, self.bad_data = batch_size, num_workers, bad_data
        self._check_folder()
        self.shard = None if shard is None else read_shard(shard)
        self.stage = None if stage is None else Path(stage)
        entries, faults = list_slides(self.folder, table)
        self.names = [entry.slide_id for entry in entries]
        entries = self._own(entries)
        self.headers, more = read_headers(entries, mpp)
        missing = [one for header in self.headers for one in self._missing_outlines(header)]
        self.problems = settle([*faults, *more, *missing], bad_data)
        without = {problem.item for problem in missing}
        self.headers = [header for header in self.headers if header.slide_id not in without]
        if not self.headers and (entries or self.shard is None):
            last = Problem(self.folder, None, None, "no slide that can be read", "see above")
            raise DataProblems([*self.problems, last])
        self.finished: dict[str, tuple[int, SlideAttributes]] = {}
        self.todo: list[SlideHeader] = []
        self._sampler: PatchSampler | None = None
        self._copies: Stage | None = None
        self._settings: dict[str, Any] = {}
        self._encoder: Mapping[str, Any] = {}

    def _own(self, entries: list[SlideEntry]) -> list[SlideEntry]:
        """Return the slides of the shard."""
        if self.shard is None:
            return entries
        # Compressed glass takes few bytes: bytes tell more of the tissue than pixels.  # A700
        sizes = {entry.slide_id: slide_bytes(entry.path) for entry in entries}
        mine = balanced(sizes, self.shard.parts)[self.shard.number - 1]
        rank_zero_info(f"shard {self.shard}: {len(mine)} of {len(entries)} slides")
        return [entry for entry in entries if entry.slide_id in mine]

    def _missing_outlines(self, header: SlideHeader) -> list[Problem]:
        """Return the fault of a slide without outlines, where they are asked for."""
        folder = self.tissue_outlines
        if folder is None or (folder / f"{header.slide_id}.geojson").is_file():
            return []
        reason = f"{folder} has no {header.slide_id}.geojson"
        remedy = "outline its tissue, or leave the slide out"
        return [Problem(header.path, header.slide_id, None, reason, remedy, "slide")]

    def _check_folder(self) -> None:
        if self.features.exists() and not self.features.is_dir():
            raise ValueError(f"{self.features}: is a file; name a folder by features")
        if self.features.resolve() == self.folder.resolve():
            raise ValueError(
                f"{self.features}: is the folder of the slides; name another one by features"
            )

    def check(self, thorough: bool = False) -> list[Problem]:
        """Return the problems of the slides; their patches are not read."""
        del thorough
        return list(self.problems)

    def summary(self) -> dict[str, dict[str, int]]:
        """Return the number of slides that can be read, and of those that were left out."""
        return {"predict": {"slides": len(self.headers), "left_out_slides": len(self.problems)}}

    def setup(self, stage: str) -> None:
        """Compare the files that are there with the settings, and choose this process's slides.

        Raises:
            DataProblems: a file was made with other settings, or from a slide that has changed.
        """
        trainer: Any = self.trainer
        module: Any = trainer.lightning_module
        self._encoder = module.describe_encoder()
        side = self.patch_px or int(self._encoder["input_size"])
        self._settings = self._all_settings(module, side, str(trainer.precision))
        self.check_settings(self._settings, self._encoder)
        patching = Patching(
            self.mpp, side, self.tissue, self.min_tissue, self.tissue_outlines, self.stain,
            self.augmented,
        )  # fmt: skip
        left, faults = self._find_finished()
        if faults:
            raise DataProblems(faults)
        rank_zero_info(
            f"{len(self.headers)} slides, {len(self.finished)} of them finished; patches of {side} "
            f"pixels at {self.mpp:g} micrometres per pixel, encoder {self._encoder['encoder']}"
        )
        self.todo = shared_out(left, trainer.global_rank, trainer.world_size)
        self._copies = None if self.stage is None or not self.todo else Stage(self.stage)
        self._sampler = PatchSampler(self.todo, patching, self.batch_size, self._copies)

    def teardown(self, stage: str) -> None:
        """Remove the copies of slides."""
        del stage
        if self._copies is not None:
            self._copies.close()

    def check_settings(self, settings: Mapping[str, Any], encoder: Mapping[str, Any]) -> None:
        """Refuse settings or an encoder, whose description is given; this class takes any."""

    def _all_settings(self, module: Any, side: int, precision: str) -> dict[str, Any]:
        """Return everything apart from the slide that its features depend on."""
        # The batch size is not among them: it changes rounding alone.  # A520
        given = ((module.blueprint or {}).get("data") or {}).get("init_args") or {}
        settings = {
            "encoder": self._encoder["encoder"],
            "mpp": self.mpp,
            "patch_px": side,
            "tissue": given.get("tissue") or _defaults(type(self.tissue)),
            "min_tissue": self.min_tissue,
            "precision": precision,
        }
        # Only where they are used, so that files without them stay valid.
        if self.stain is not None:
            settings["stain"] = self.stain.section()
        if self.augmented:
            settings["augmented"] = self.augmented
        return settings

    def _find_finished(self) -> tuple[list[SlideHeader], list[Problem]]:
        """Return the slides without a file, and the faults of the files."""
        self.finished = {}
        left, faults = list[SlideHeader](), list[Problem]()
        for header in self.headers:
            path = self.file_of(header.slide_id)
            try:
                if path.exists():
                    wanted = self._attributes(header, slide_fingerprint(header.path))
                    self.finished[header.slide_id] = finished_file(
                        path, header.path, wanted, self.remedy
                    )
                else:
                    left.append(header)
            except (ValueError, OSError) as error:
                faults.append(slide_problem(path, header.slide_id, str(error)))
        return left, faults

    def file_of(self, slide_id: str) -> Path:
        """Return the feature file of a slide."""
        return self.features / f"{slide_id}.h5"

    def _attributes(
        self,
        header: SlideHeader,
        fingerprint: str,
        tissue_mm2: float = 0.0,
        stain: Mapping[str, Any] | None = None,
    ) -> SlideAttributes:
        side: int = self._settings["patch_px"]
        return SlideAttributes(
            slide_mpp=header.mpp,
            mpp=self.mpp,
            patch_px=side,
            patch_size_level0=round(self.mpp / header.mpp * side),
            encoder=self._encoder["encoder"],
            weights_sha256=self._encoder["weights_sha256"],
            settings=self._settings_of(header.slide_id),
            slide_fingerprint=fingerprint,
            tissue_mm2=tissue_mm2,
            mpp_source=header.mpp_source,
            encoder_config=self._encoder.get("encoder_config") or {},
            stain=stain,
        )

    def _settings_of(self, slide_id: str) -> dict[str, Any]:
        """Return the settings of a slide, which outlines of its own belong to."""
        if self.tissue_outlines is None:
            return self._settings
        outlines = file_hash(self.tissue_outlines / f"{slide_id}.geojson")
        return {**self._settings, "tissue": {"outlines": outlines}}

    def attributes_of(self, plan: Plan) -> SlideAttributes:
        """Return the attributes of the file of a slide."""
        assert plan.slide is not None
        return self._attributes(plan.header, plan.fingerprint, plan.slide.tissue_mm2, plan.stain)

    def take_plan(self, slide_id: str) -> Plan:
        """Return the plan of a slide whose first batch has come, which is then forgotten."""
        assert self._sampler is not None
        return self._sampler.plans.pop(slide_id)

    def finish(self, slide_id: str) -> None:
        """Forget a slide whose patches have been read."""
        if self._copies is not None:
            self._copies.remove(slide_id)

    def give_up(self, slide_id: str) -> None:
        """Read no further patches of a slide."""
        assert self._sampler is not None
        self._sampler.given_up.add(slide_id)

    def failure(self, header: SlideHeader, message: str) -> Problem:
        """Return the problem of a slide that failed, from a message ``REASON; REMEDY``."""
        if self._copies is not None:
            message = self._copies.as_original(message, header.path, header.slide_id)
        return slide_problem(header.path, header.slide_id, message)

    def predict_dataloader(self) -> DataLoader[PatchBatch]:
        """Return the batches of this process's slides."""
        assert self._sampler is not None
        return DataLoader(
            PatchImages(self.mpp, self._settings["patch_px"], self.stain),
            batch_size=None,  # a key is a batch
            sampler=self._sampler,
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
        )


def _defaults(kind: type) -> dict[str, Any]:
    """Return the section of a configuration that names a class without giving arguments."""
    parameters = inspect.signature(kind).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": given}


def _unchanged(batch: Any) -> Any:
    return batch


def shared_out(headers: Sequence[SlideHeader], rank: int, world: int) -> list[SlideHeader]:
    """Return the slides of a process: about equally many pixels for each, in order of the list."""
    mine = balanced({header.slide_id: header.pixels for header in headers}, world)[rank]
    return [header for header in headers if header.slide_id in mine]
