"""How the runs of the study are scored: what makes a cell of images, of bags and of patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.robustness.cells import Cell, Place, fill, wanted, weights
from benchmarks.robustness.images import DOMAINS, LARGER, Images, images_of
from benchmarks.robustness.plan import DIGITS, ROOT, Run
from benchmarks.robustness.tiles import ENCODER, TileBags
from datamodules.transforms.bag_shifts import SHIFTS
from datamodules.transforms.patch_shifts import PATCH_SHIFTS
from engine.deploy.bags import prepare_bags
from engine.deploy.corrupted import Corruption, scored_cell
from engine.deploy.encoded_patches import (
    EncodedShift,
    PatchFeatures,
    PatchFolder,
    check_encoder,
    make_encoder,
)
from engine.deploy.predict import CocoPredictor, prepare_coco
from engine.deploy.shifted_bags import BagShift, bag_metrics, feature_units, scored_names
from evaluation.mil.metrics import auroc
from evaluation.robustness.names import BENCHMARK, CLEAN, domain_of, is_graded
from evaluation.seg.coco_weighted import weighted_metrics

SEED = 0  # of the corruptions
MAIN, AUROC = "segm_map", "bag_auroc"


def score_images(
    run: Run, root: Path, checkpoint: Path, nuclei: Path | None, until: float | None = None
) -> int:
    """Score a segmentation run under all corruptions and on the domains; return what is missing."""
    domains = DOMAINS if run.data == DIGITS else (LARGER,)
    places = wanted(BENCHMARK, domains)

    def prepare() -> Callable[[Place], Cell]:
        return ImageScorer(checkpoint, images_of(run.data, root, nuclei))

    return fill(run.folder(root), checkpoint, places, prepare, until)


class ImageScorer:
    """Scores a segmentation checkpoint in the cells of `evaluate.py robustness`.

    Args:
        checkpoint: of a training.
        images: the test images, under None, and those of each domain.
    """

    def __init__(self, checkpoint: Path, images: Mapping[str | None, Images]) -> None:
        self.checkpoint, self.images = checkpoint, images
        self._predictors: dict[str | None, CocoPredictor] = {}

    def __call__(self, place: Place) -> Cell:
        """Predict the images of a cell and return its scores."""
        name, severity = place
        change = Corruption(name, severity, SEED) if is_graded(name) else None
        metrics, matches = scored_cell(self._predictor(domain_of(name)), change)
        (masks,) = [one for one in matches if one.kind == "segm"]
        drawn = weighted_metrics(masks, weights(masks.images))
        return Cell({MAIN: metrics[MAIN], **metrics}, drawn[MAIN])

    def _predictor(self, domain: str | None) -> CocoPredictor:
        if domain not in self._predictors:
            given = self.images[domain]
            self._predictors[domain] = prepare_coco(
                self.checkpoint, given.annotations, given.images
            )
        return self._predictors[domain]


def score_bags(run: Run, root: Path, checkpoint: Path, until: float | None = None) -> int:
    """Score a run on digit bags under the shifts of features; return what is missing."""

    def prepare() -> Callable[[Place], Cell]:
        return BagScorer(checkpoint, ROOT / "configs/_base/data/digit_bags.yaml")

    return fill(run.folder(root), checkpoint, wanted(SHIFTS), prepare, until)


def score_tiles(
    run: Run, root: Path, checkpoint: Path, bags: TileBags, until: float | None = None
) -> int:
    """Score a run on tiles under the shifts of patches; return what is missing."""

    def prepare() -> Callable[[Place], Cell]:
        return BagScorer(checkpoint, bags.test, bags.patches)

    return fill(run.folder(root), checkpoint, wanted(PATCH_SHIFTS), prepare, until)


class BagScorer:
    """Scores a MIL checkpoint in the cells of `evaluate.py robustness`.

    Args:
        checkpoint: of a training.
        data: file of the bags, or a recipe whose test split is taken.
        patches: folder of their tiles, which are shifted in place of the features.
    """

    def __init__(self, checkpoint: Path, data: Path, patches: Path | None = None) -> None:
        self.predictor = prepare_bags(checkpoint, data)
        self.features = None
        if patches is None:
            self.units = feature_units(self.predictor)
        else:
            encoder = make_encoder(ENCODER)
            check_encoder(self.predictor, encoder)
            folder = PatchFolder(patches, scored_names(self.predictor), encoder.side)
            self.features = PatchFeatures(folder, encoder, SEED)

    def __call__(self, place: Place) -> Cell:
        """Predict the bags of a cell and return its scores."""
        found = self.predictor.predict(self.change(*place))
        scores = found.scores
        positive = scores.labels == 1
        drawn = auroc(positive, scores.probabilities, weights(len(positive)).astype(float))
        metrics = bag_metrics(found)
        return Cell({AUROC: metrics[AUROC], **metrics}, drawn)

    def change(self, name: str, severity: int) -> BagShift | EncodedShift | None:
        """Return what is done to each bag of a cell, or None for nothing."""
        if self.features is not None:
            standardisation = getattr(self.predictor.data, "standardisation", None)
            shift = None if name == CLEAN else name
            return EncodedShift(self.features, shift, severity, standardisation)
        return None if name == CLEAN else BagShift(name, severity, SEED, self.units)
