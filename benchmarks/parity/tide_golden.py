"""Write the errors by kind that tidecv 1.0.1 finds, for `tests/evaluation/report/test_errors.py`.

tidecv (Bolya et al. 2020, MIT) needs another numpy than this project, so it is run in an
environment of its own, which needs nothing of this project but the scenes::

    python -m venv /tmp/tide && /tmp/tide/bin/pip install tidecv==1.0.1
    PYTHONPATH=. /tmp/tide/bin/python benchmarks/parity/tide_golden.py

For the COCO fixture, where some classes that are detected have no object, ``own`` is what tidecv
says, which counts these classes with an AP of 0, and ``with_objects`` the mean over the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tidecv import TIDE, datasets
from tidecv.ap import ClassedAPDataObject

from tests.support.error_scenes import coco_fixture, nuclei, random_scenes

FILE = Path("tests/evaluation/report/data/tide.json")
SCENES = 50
KINDS = ("cls", "loc", "both", "dupe", "bkg", "miss")
NAMES = {"falsepos": "fp", "falseneg": "fn"}


def errors(
    truth: dict[str, Any], rows: list[Any], kind: str, only: Collection[int] | None = None
) -> dict[str, Any]:
    """Return AP50, gains and counts by tidecv.

    Args:
        truth: content of a COCO instances file.
        rows: COCO results.
        kind: ``segm`` or ``box``.
        only: ids of the classes that the mean is over; None for tidecv's own.
    """
    own_mean = ClassedAPDataObject.get_mAP
    if only is not None:

        def mean(self: Any) -> float:
            found = [o.get_ap() for k, o in self.objs.items() if k in only and not o.is_empty()]
            return float(sum(found) / len(found))

        ClassedAPDataObject.get_mAP = mean
    try:
        with tempfile.TemporaryDirectory() as folder:
            truth["images"] = [{"file_name": "", **image} for image in truth["images"]]
            paths = [Path(folder) / name for name in ("truth.json", "rows.json")]
            for path, content in zip(paths, (truth, rows), strict=True):
                path.write_text(json.dumps(content))
            tide = TIDE(mode=TIDE.MASK if kind == "segm" else TIDE.BOX)
            run = tide.evaluate(
                datasets.COCO(str(paths[0])), datasets.COCOResult(str(paths[1])), name="run"
            )
            found = tide.get_all_errors()
    finally:
        ClassedAPDataObject.get_mAP = own_mean
    gains = {k.lower(): v for part in ("main", "special") for k, v in found[part]["run"].items()}
    counts = {error.short_name.lower(): n for error, n in run.count_errors().items()}
    return {
        "ap50": round(run.ap / 100, 9),
        "gains": {NAMES.get(k, k): round(v / 100, 9) for k, v in gains.items()},
        "counts": {name: counts[name] for name in KINDS},
    }


def main() -> None:
    """Write the golden file."""
    parser = argparse.ArgumentParser(description="Write the errors that tidecv finds.")
    parser.add_argument("--out", type=Path, default=FILE)
    path = parser.parse_args().out
    golden = {}
    for seed in range(SCENES):
        for kind in ("segm", "box"):
            golden[f"random_{seed}_{kind}"] = errors(*random_scenes(seed), kind)
    for kind in ("segm", "box"):
        golden[f"nuclei_{kind}"] = errors(*nuclei(), kind)
        truth, rows = coco_fixture("segm" if kind == "segm" else "bbox")
        known = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
        golden[f"coco_{kind}"] = {
            "own": errors(truth, rows, kind),
            "with_objects": errors(truth, rows, kind, known),
        }
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in golden.items())
    path.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
