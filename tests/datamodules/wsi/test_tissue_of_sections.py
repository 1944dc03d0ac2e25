"""Patches of synthetic slides, against where their tissue and their pen marks are."""

import cv2
import numpy as np
import pytest

from datamodules.wsi.grid import grid
from datamodules.wsi.synthetic_shapes import CELL_UM
from datamodules.wsi.synthetic_slides import plan_slides, write_slide
from datamodules.wsi.tissue import OtsuTissue, TissueMask, tissue_share
from formats.slides.pyramid import open_slide

MPP, PX, LEAST = 0.5, 224, 0.25  # of the recipes
PEN_UM = 75  # width of a stroke


def covered_and_wrong(slide, path):
    """Return how much tissue is in patches, and the share of patches on glass or on ink.

    A patch is on glass if a tenth of it is tissue, and on ink if half of it is.
    """
    section = slide.section()[0]
    tissue = section.tissue > 0
    ink = np.zeros(tissue.shape, np.uint8)
    for pen in section.pens:
        points = np.round(pen / CELL_UM * 16).astype(np.int32)
        cv2.polylines(ink, [points], False, 1, max(1, round(PEN_UM / CELL_UM)), shift=4)
    mpp = slide.scanner.mpp
    step = MPP / mpp * PX
    with open_slide(path) as file:
        coords = grid(file.bounds, step)
        kept = coords[tissue_share(OtsuTissue()(file, mpp), coords, step) >= LEAST]

    def share(mask):
        return tissue_share(TissueMask(mask, CELL_UM / mpp, (0, 0)), kept, step)

    wanted = tissue & (ink == 0)
    covered = share(wanted).sum() * (MPP * PX / CELL_UM) ** 2 / wanted.sum()
    wrong = (share(tissue) < 0.1) | (share(ink > 0) > 0.5)
    return covered, wrong.mean()


@pytest.mark.slow
def test_tissue_is_covered_and_little_else(tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "lesions").mkdir()
    planned = [s for s in plan_slides(40, 30, 0) if s.section()[0].pens][:3] + plan_slides(3, 3, 1)
    for slide in planned:
        write_slide(slide, tmp_path)
        covered, wrong = covered_and_wrong(slide, tmp_path / "slides" / f"{slide.slide_id}.tiff")
        assert covered >= 0.9, slide.slide_id
        assert wrong <= 0.05, slide.slide_id
