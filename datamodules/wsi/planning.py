"""Which patches of a slide are read, and the order in which batches of many slides come."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

from datamodules.transforms.stain import StainVersion, stain_version
from datamodules.wsi.grid import grid
from datamodules.wsi.outlines import outlined_tissue, tissue_objects
from datamodules.wsi.preview import preview
from datamodules.wsi.slide_list import SlideHeader
from datamodules.wsi.staging import AHEAD, Stage
from datamodules.wsi.stain import Stain
from datamodules.wsi.stain_sample import StainSample, sample_tissue
from datamodules.wsi.tissue import Tissue, TissueMask, tissue_area, tissue_share
from formats.slides.pyramid import UnreadableRegion, open_slide, slide_fingerprint
from formats.slides.qupath import SlideObject
from formats.slides.resolution import PatchReader
from structures import Slide

IntArray = npt.NDArray[np.int64]


class Patching(NamedTuple):
    """How a slide is cut into patches.

    Attributes:
        mpp: micrometres per pixel of the patches.
        patch_px: side of a patch in pixels.
        tissue: finds the tissue.
        min_tissue: least share of a patch that is tissue.
        outlines: folder of outlines that replace ``tissue``, or None.
        stain: normalises the stain, or None.
        augmented: number of augmented versions of the patches.
    """

    mpp: float
    patch_px: int
    tissue: Tissue
    min_tissue: float
    outlines: Path | None = None
    stain: Stain | None = None
    augmented: int = 0

    def plan(self, header: SlideHeader) -> Plan:
        """Return the patches of a slide; a slide that cannot be read has a fault instead."""
        try:
            fingerprint = slide_fingerprint(header.path)
            with open_slide(header.path) as file:
                reader = PatchReader(file, header.mpp, self.mpp, self.patch_px)
                step = reader.step
                if self.outlines is None:
                    mask = self.tissue(file, header.mpp)
                else:
                    outlines = self.outlines / f"{header.slide_id}.geojson"
                    mask = outlined_tissue(outlines, file, header.mpp)
                every = grid(file.bounds, step)
                coords = every[tissue_share(mask, every, step) >= self.min_tissue]
                drawn = None
                with contextlib.suppress(UnreadableRegion):  # perhaps where there is no patch
                    drawn = preview(file, header.mpp, mask, coords, step)
                fault, fitted = "", None
                if self.stain is not None and len(coords):
                    sample = sample_tissue(file, header.mpp, reader, coords, mask, fingerprint)
                    fault, fitted = _fitted(self.stain, sample)
        except (OSError, ValueError) as error:
            return Plan(header, fault=str(error) or type(error).__name__)
        area = tissue_area(mask, header.mpp)
        slide = Slide(
            header.path, header.mpp, torch.from_numpy(coords), round(step), header.slide_id, area
        )
        fault = fault if len(slide) else self._without_patches(area, len(every))
        versions = tuple(stain_version(fingerprint, k + 1) for k in range(self.augmented))
        return Plan(header, fingerprint, slide, drawn, fault, mask, fitted, versions)

    def _without_patches(self, area: float, places: int) -> str:
        if area == 0:
            return (
                "no tissue was found; look at its preview, and leave the slide out if it is empty"
            )
        side = self.mpp * self.patch_px
        return (
            f"none of {places} patches of {side:g} micrometres has a share of {self.min_tissue:g} "
            f"tissue ({area:.3g} mm2 in the slide); look at its preview, and lower min_tissue"
        )


class Plan(NamedTuple):
    """The patches of a slide.

    Attributes:
        header: the slide.
        fingerprint: hash of the slide file.
        slide: the patches; None if the slide cannot be read.
        preview: (H, W, 3) uint8 RGB with tissue and patches, or None.
        fault: why there are no patches, or an empty text.
        tissue: the tissue; None if the slide cannot be read.
        stain: fitted values of its stain, or None.
        versions: how its patches are augmented.
    """

    header: SlideHeader
    fingerprint: str = ""
    slide: Slide | None = None
    preview: npt.NDArray[np.uint8] | None = None
    fault: str = ""
    tissue: TissueMask | None = None
    stain: Mapping[str, Any] | None = None
    versions: tuple[StainVersion, ...] = ()

    def tissue_objects(self) -> list[SlideObject]:
        """Return the outlines of the tissue for QuPath, in pixels of level 0."""
        return [] if self.tissue is None else tissue_objects(self.tissue)


class PatchKey(NamedTuple):
    """A batch to read.

    Attributes:
        slide_id: name of the slide.
        path: its file.
        mpp: micrometres per pixel of level 0.
        coords: (P, 2) level-0 pixels (x, y).
        first: number of the first patch.
        patches: number of patches of the slide.
        fault: why there is nothing to read, or an empty text.
        stain: fitted values of the slide's stain, or None.
        versions: how the patches are augmented.
    """

    slide_id: str
    path: Path
    mpp: float
    coords: IntArray
    first: int = 0
    patches: int = 0
    fault: str = ""
    stain: Mapping[str, Any] | None = None
    versions: tuple[StainVersion, ...] = ()


class PatchSampler(Sampler[PatchKey]):
    """Yields the batches of one slide after another; while one is read, the next is planned.

    A batch never has patches of two slides, so what a network makes of a slide does not depend on
    the others. The number of batches is not known beforehand.

    Args:
        headers: the slides.
        patching: how they are cut.
        batch_size: patches of a batch; the last one of a slide may have fewer.
        stage: copies slides before they are read; None to read them where they are.

    Attributes:
        plans: plans of the slides that were begun, by name; whoever has used one removes it.
        given_up: names of slides of which no further batch is wanted.
    """

    def __init__(
        self,
        headers: Sequence[SlideHeader],
        patching: Patching,
        batch_size: int,
        stage: Stage | None = None,
    ) -> None:
        self.headers, self.patching, self.batch_size = tuple(headers), patching, batch_size
        self.stage = stage
        self.plans: dict[str, Plan] = {}
        self.given_up: set[str] = set()

    def __iter__(self) -> Iterator[PatchKey]:
        with ThreadPoolExecutor(1) as copier, ThreadPoolExecutor(1) as thread:
            copies, plans = deque[Future[Path]](), deque[Future[Plan]]()
            to_copy, to_plan = iter(self.headers), iter(self.headers)
            try:
                for _ in self.headers:
                    for header in islice(to_copy, AHEAD + 1 - len(copies) - len(plans)):
                        copies.append(copier.submit(self._copied, header))
                    for header in islice(to_plan, 2 - len(plans)):
                        plans.append(thread.submit(self._plan, header, copies.popleft()))
                    plan = plans.popleft().result()
                    self.plans[plan.header.slide_id] = plan
                    yield from self._keys(plan)
            finally:
                if self.stage is not None:
                    self.stage.stop()

    def _copied(self, header: SlideHeader) -> Path:
        if self.stage is None:
            return header.path
        return self.stage.copy(header.path, header.slide_id)

    def _plan(self, header: SlideHeader, copy: Future[Path]) -> Plan:
        plan = self.patching.plan(header._replace(path=copy.result()))
        return plan._replace(header=header)

    def _keys(self, plan: Plan) -> Iterator[PatchKey]:
        name, path, mpp = plan.header[:3]
        if plan.slide is None or plan.fault:
            yield PatchKey(name, path, mpp, np.zeros((0, 2), np.int64), fault=plan.fault)
            return
        path = plan.slide.path  # perhaps a copy
        coords = plan.slide.coords.numpy()
        for first in range(0, len(coords), self.batch_size):
            if name in self.given_up:
                return
            chunk = coords[first : first + self.batch_size]
            yield PatchKey(
                name, path, mpp, chunk, first, len(coords),
                stain=plan.stain, versions=plan.versions,
            )  # fmt: skip


def _fitted(stain: Stain, sample: StainSample) -> tuple[str, Mapping[str, Any] | None]:
    """Return why a stain cannot be fitted, or an empty text, and the fitted values."""
    try:
        return "", stain.fit(sample)
    except ValueError as error:
        return str(error), None
