"""Search for the predictions and the decision threshold in a run folder.

`train.py test` and `predict` write ``RUN/predictions/bags.csv`` or ``RUN/predictions/test.json``
(``predict.json``); ``RUN/config.yaml`` names the checkpoint, which has the decision threshold.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

from evaluation.targets.training_bags import TrainingBags

Kind = Literal["bags", "images"]

# ValueError: not a number, or an archive that is refused.
_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, BadZipFile, pickle.UnpicklingError)

_NAMES: dict[Kind, tuple[str, ...]] = {
    "bags": ("bags.csv",),
    "images": ("test.json", "predict.json"),
}


class Predictions(NamedTuple):
    """A file of predictions.

    Attributes:
        file: the file.
        threshold: decision threshold of the run, or None.
        note: remark on the threshold for the user, or empty.
        checkpoint: the checkpoint of the run, or None.
    """

    file: Path
    threshold: float | None = None
    note: str = ""
    checkpoint: Path | None = None


def find_predictions(path: Path, kind: Kind) -> Predictions:
    """Return the predictions in a file or a run folder.

    Args:
        path: a file; a run folder ``runs/NAME/version_K``; its ``predictions`` folder; or
            ``runs/NAME`` if only one version has predictions.
        kind: bags (CSV) or images (COCO results).

    Raises:
        ValueError: a folder has no such predictions or several, or a file is of the other kind.
    """
    other = {"bags": ".json", "images": ".csv"}[kind]
    if not path.is_dir():
        if path.is_file() and path.suffix.lower() == other:
            raise ValueError(f"{path}: {_of_the_other_kind(kind)}")
        return Predictions(path)
    patterns = ["", "predictions/"]
    found = [f for p in patterns for name in _NAMES[kind] if (f := path / p / name).is_file()]
    if not found:
        versions = sorted(path.glob("version_*/predictions"))
        found = [f for v in versions for name in _NAMES[kind] if (f := v / name).is_file()]
    if len(found) > 1:
        listed = ", ".join(str(f) for f in found)
        raise ValueError(f"{path}: has several predictions, give one of them: {listed}")
    if not found:
        raise ValueError(f"{path}: {_nothing_found(path, kind)}")
    if kind == "images":
        return Predictions(found[0])
    return _of_run(found[0])


def training_bags(found: Predictions) -> TrainingBags | None:
    """Return what the checkpoint of a run says of its training bags, or None if it is not known."""
    try:
        return TrainingBags.from_plain(_facts(found.checkpoint)["training_bags"])
    except (*_UNREADABLE, KeyError, TypeError):
        return None


def has_grades(found: Predictions) -> bool:
    """Return whether the run's model predicts ordered grades, whose table is that of classes."""
    try:
        return bool(_record(found.checkpoint)["blueprint"]["links"]["task"] == "ordinal")
    except (*_UNREADABLE, KeyError, TypeError):
        return False


def _of_the_other_kind(kind: Kind) -> str:
    if kind == "bags":
        return "results of images are compared with --annotations GROUND_TRUTH.json"
    return "a table of bags is compared without --annotations; give COCO results, a JSON list"


def _nothing_found(path: Path, kind: Kind) -> str:
    opposite: Kind = "images" if kind == "bags" else "bags"
    for folder in (path, *sorted(path.glob("version_*"))):
        if any((folder / "predictions" / name).is_file() for name in _NAMES[opposite]):
            return f"has predictions of {opposite}; {_of_the_other_kind(kind)}"
    wanted = " or ".join(f"predictions/{name}" for name in _NAMES[kind])
    return (
        f"has no {wanted}; write it by `python train.py test --config RUN/config.yaml --ckpt_path "
        "RUN/checkpoints/best.ckpt` and give the new run folder that this command creates"
    )


def _of_run(file: Path) -> Predictions:
    """Return the decision threshold of a run, following the rule of `MILModule.restore_facts`."""
    import yaml

    run = file.parent.parent
    try:
        config: Any = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        given = config["model"]["init_args"].get("threshold")
        named = config.get("ckpt_path")
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return Predictions(file, None, f"{run}: no config.yaml with the threshold")
    checkpoint = Path(named) if isinstance(named, str) else None
    if isinstance(given, int | float):
        return Predictions(file, float(given), "", checkpoint)
    if checkpoint is None:
        note = f"{run}: its config.yaml has neither a threshold nor a checkpoint"
        return Predictions(file, None, note)
    try:
        return Predictions(file, float(_facts(checkpoint)["threshold"]), "", checkpoint)
    except (*_UNREADABLE, KeyError, TypeError):
        note = f"{checkpoint}: the threshold cannot be read from it"
        return Predictions(file, None, note, checkpoint)


def _facts(checkpoint: Path | None) -> Any:
    return _record(checkpoint)["facts"]


def _record(checkpoint: Path | None) -> Any:
    import torch

    from formats.weights.archive import check_archive

    if checkpoint is None:
        raise KeyError("no checkpoint")
    check_archive(checkpoint)
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return content["segmil"]
