"""Run folders of `fit` and `test` that a report reads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from engine.checkpoints.restore import read_record

Kind = Literal["seg", "mil"]

_PREDICTED: dict[str, Kind] = {"test.json": "seg", "predict.json": "seg", "bags.csv": "mil"}
_WORD = {"seg": "images", "mil": "bags"}


@dataclass(frozen=True)
class RunFolder:
    """A run folder.

    Attributes:
        folder: ``runs/NAME/version_K``.
        name: short name that no other run of the report has.
        kind: images (``seg``) or bags (``mil``).
        config: content of ``config.yaml``.
        configuration: its text.
        provenance: content of ``provenance.json``, empty if there is none.
        checkpoint: of `fit` the best one, or the last; of `test` the one that was tested, None
            where it is gone.
        predictions: the file that `test` has written, None for a run of `fit`.
    """

    folder: Path
    name: str
    kind: Kind
    config: dict[str, Any]
    configuration: str
    provenance: dict[str, Any]
    checkpoint: Path | None
    predictions: Path | None

    @property
    def model(self) -> str:
        """Name of the class of the model."""
        section = (self.config.get("model") or {}).get("init_args", {}).get("model") or {}
        return str(section.get("class_path", "")).rpartition(".")[2]

    @property
    def training(self) -> Path:
        """The folder of the training: this one, or of `test` that of its checkpoint, if known."""
        if self.predictions is None or self.checkpoint is None:
            return self.folder
        above = self.checkpoint.absolute().parent.parent
        return above if (above / "config.yaml").is_file() else self.folder


def read_runs(paths: Sequence[Path]) -> list[RunFolder]:
    """Read the run folders of a report.

    Args:
        paths: run folders; ``runs/NAME`` stands for its only version.

    Raises:
        ValueError: one is no run folder, has neither a checkpoint nor predictions, or is given
            twice; or there are runs on images beside runs on bags.
    """
    runs = [_read(path) for path in paths]
    seen: dict[Path, Path] = {}
    for run, path in zip(runs, paths, strict=True):
        where = run.folder.resolve()
        if where in seen:
            raise ValueError(f"--run {seen[where]} and {path} are the same run; name it once")
        seen[where] = path
    for run in runs[1:]:
        if run.kind != runs[0].kind:
            raise ValueError(
                f"{runs[0].folder} predicts {_WORD[runs[0].kind]}, {run.folder} "
                f"{_WORD[run.kind]}; write a report of each"
            )
    return _named(runs)


def _named(runs: list[RunFolder]) -> list[RunFolder]:
    """Give runs whose names are the same longer ones."""
    counts = Counter(run.name for run in runs)
    longer = [
        run if counts[run.name] == 1 else replace(run, name=f"{run.name}/{run.folder.name}")
        for run in runs
    ]
    counts = Counter(run.name for run in longer)
    return [run if counts[run.name] == 1 else replace(run, name=str(run.folder)) for run in longer]


def _read(path: Path) -> RunFolder:
    if path.is_file():
        raise ValueError(f"--run {path} is a file; name a run folder such as runs/NAME/version_0")
    folder = path
    versions = sorted(path.glob("version_*/config.yaml"))
    if not (path / "config.yaml").is_file() and len(versions) == 1:
        folder = versions[0].parent
    if not (folder / "config.yaml").is_file():
        reason = "has no config.yaml" if path.is_dir() else "does not exist"
        hint = f", such as {versions[-1].parent}" if versions else ""
        raise ValueError(f"--run {path}: {reason}; name a run folder of train.py{hint}")
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    try:
        config: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = str(error).replace("\n", " ")
        raise ValueError(f"{folder / 'config.yaml'}: is no YAML ({reason})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.yaml'}: is no configuration of a run")
    predictions = _predictions(folder)
    checkpoint = _tested(folder, config) if predictions else _trained(folder)
    if checkpoint is None and predictions is None:
        raise ValueError(
            f"--run {path}: has neither checkpoints/*.ckpt nor predictions; name a folder of "
            "`python train.py fit` or `test` that has finished"
        )
    named = re.fullmatch(r"version_\d+", folder.name) is not None
    return RunFolder(
        folder=folder,
        name=folder.absolute().parent.name if named else folder.absolute().name,
        kind=_kind(predictions, checkpoint),
        config=config,
        configuration=text,
        provenance=_provenance(folder),
        checkpoint=checkpoint,
        predictions=predictions,
    )


def _predictions(folder: Path) -> Path | None:
    found = (folder / "predictions" / name for name in _PREDICTED)
    return next((path for path in found if path.is_file()), None)


def _trained(folder: Path) -> Path | None:
    found = [folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    found += sorted((folder / "checkpoints").glob("*.ckpt"))
    return next((path for path in found if path.is_file()), None)


def _tested(folder: Path, config: dict[str, Any]) -> Path | None:
    """Return the checkpoint of a test, whose path may be relative to a folder above the run's."""
    named = config.get("ckpt_path")
    if not isinstance(named, str):
        return None
    places = (above / named for above in (Path(), *folder.absolute().parents))
    return next((path for path in places if path.is_file()), None)


def _kind(predictions: Path | None, checkpoint: Path | None) -> Kind:
    if predictions is not None:
        return _PREDICTED[predictions.name]
    assert checkpoint is not None
    facts = read_record(checkpoint)["facts"]
    if "category_map" in facts:
        return "seg"
    if "class_names" in facts:
        return "mil"
    raise ValueError(f"{checkpoint}: predicts neither images nor bags")


def _provenance(folder: Path) -> dict[str, Any]:
    try:
        found: Any = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
