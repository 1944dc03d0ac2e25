"""All cases, and the cases that also run in a separate process."""

from tests.faults import (
    annotations,
    bags,
    checkpoints,
    configs,
    features,
    flags,
    foreign,
    images,
    open_world,
    predictions,
    yolo,
)
from tests.faults.case import Case

KINDS = (
    annotations, images, yolo, foreign, predictions, bags, features, configs, checkpoints, flags,
    open_world,
)  # fmt: skip
CASES: list[Case] = [case for kind in KINDS for case in kind.CASES]

# One case per command.
_APART = (
    "config: a tab",  # fit
    "checkpoint: cut in half, to validate",
    "checkpoint: cut in half, to test",
    "checkpoint: cut in half, to predict",
    "check-data: an image is missing",
    "annotations: cut in half",  # coco
    "COCO results: score null at a confidence",  # operating-point
    "bag CSV: a score missing",  # mil
    "npz of bags: a NaN",  # mil-cv
    "bag CSVs compared: a bag is in one alone",  # compare
    "conversion: crowds",
)
APART: list[Case] = [case for case in CASES if str(case) in _APART]
