"""Bags under the shifts of the robustness benchmark."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from datamodules.mil.feature_set import FeatureSet
from datamodules.mil.splits import BagSplit
from datamodules.transforms.bag_shifts import (
    FeatureUnits,
    RunningUnits,
    shift_bag,
    units_of,
)
from engine.deploy.bags import BagPredictor
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.mil.scores import evaluate_bags
from evaluation.robustness.corruptions import image_seed
from formats.files import file_digest
from lightning_modules.rebuilding import class_of
from structures import BagBatch


@dataclass(frozen=True)
class BagShift:
    """Shifts bags as they were read; their labels stay.

    The random numbers of a bag depend on the seed, its id, the name and the severity (A805), so
    that the same bag results in any order, batch and worker process.

    Attributes:
        name: see `datamodules.transforms.bag_shifts.shift_bag`.
        severity: 1 to 5.
        seed: of the evaluation.
        units: of the features, where the shift needs them.
    """

    name: str
    severity: int
    seed: int = 0
    units: FeatureUnits | None = None

    def __call__(self, bag: BagBatch) -> BagBatch:
        """Return a shifted bag."""
        seed = image_seed(self.seed, bag_name(bag), self.name, self.severity)
        return shift_bag(bag, self.name, self.severity, seed, self.units)


def bag_name(bag: BagBatch) -> str:
    """Return the id of the only bag of a batch, or its number in the data."""
    return bag.bag_ids[0] if bag.bag_ids else str(int(bag.index[0]))


def scored_names(predictor: BagPredictor) -> tuple[str, ...]:
    """Return the ids of the bags that are scored, in order; no features are read from files."""
    source = predictor.data.source(predictor.split)
    numbers = predictor.data.numbers(predictor.split)
    if isinstance(source, FeatureSet):
        return tuple(source.bag_ids[number] for number in numbers)
    return tuple(bag_name(source.bag(number)) for number in numbers)


def data_hash(predictor: BagPredictor, digests: dict[Path, bytes] | None = None) -> str:
    """Return 16 hexadecimal digits that follow from the bytes of all files (A808).

    They are those of the data as named, of a file that a recipe names, and of the features of
    slides; also ids and labels of the bags that are scored.

    Args:
        predictor: a checkpoint and bags.
        digests: digests of files that are known already; new ones are added.
    """
    known = {} if digests is None else digests
    data, split, section = predictor.data, predictor.split, predictor.section
    files = [predictor.files[1]]
    named = getattr(class_of(section), "path_argument", None)
    if named and named in section["init_args"]:
        files.append(Path(section["init_args"][named]))
    source = data.source(split)
    if isinstance(source, FeatureSet):
        training = () if split == "predict" else data.numbers("train")  # their units are used
        for number in (*training, *data.numbers(split)):
            files += [slide.file for slide in source.slides(number)]
    digest = hashlib.sha256("\n".join(scored_names(predictor)).encode())
    digest.update(data.contents(split)[0].tobytes())
    for path in dict.fromkeys(files):
        if path not in known:
            known[path] = file_digest(path)
        digest.update(known[path])
    return digest.hexdigest()[:16]


def units_source(predictor: BagPredictor) -> tuple[str, BagSplit | None]:
    """Return in words where the units of shifts are from, and the split of bags or None (A807).

    They are those of the checkpoint if it standardises features; else of the training split, if the
    data have one (those that were trained on, or a recipe); else of the bags that are scored.
    """
    data, split = predictor.data, predictor.split
    if units_of(data) is not None:
        return "the standardisation of the checkpoint", None
    if split == "test" and data.numbers("train"):
        return "the training bags", "train"
    return "the bags that are scored", split


def feature_units(predictor: BagPredictor) -> FeatureUnits:
    """Return the units of shifts, see `units_source`; bags are read one after the other."""
    data, (_, split) = predictor.data, units_source(predictor)
    known = units_of(data)
    if split is None and known is not None:
        return known
    split = split or predictor.split
    running, source = RunningUnits(), data.source(split)
    for number in data.numbers(split):
        running.add(source.bag(number).features)
    return running.units()


def bag_metrics(found: BagPredictions) -> dict[str, float]:
    """Return the metrics of `evaluate.py mil` for predictions of a checkpoint.

    Binary decisions use the threshold of the checkpoint.
    """
    if found.target is not None:
        return found.target.metrics()
    scores, threshold = found.scores, 0.5 if found.threshold is None else found.threshold
    return evaluate_bags(scores.labels, scores.probabilities, found.task, threshold)
