"""All cases, and the cases that also run in a separate process."""

import importlib
from pathlib import Path

from tests.faults.case import Case

# Every other module of this folder lists its cases in CASES.
_WITHOUT_CASES = {"__main__", "case", "corpus", "sets", "test_faults"}
_NAMES = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - _WITHOUT_CASES)
KINDS = [importlib.import_module(f"tests.faults.{name}") for name in _NAMES]
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
    "feature folder: a broken file",  # convert-features
    "open world: an unknown id",
    "split: another data set",  # make-split
    "pseudo-labels: rows without masks",
    "CAMELYON labels: the duplicate",  # camelyon-splits
    "FROC: two numbers in a row",
    "pN stages: four predictions",  # pn-stage
)
APART: list[Case] = [case for case in CASES if str(case) in _APART]
