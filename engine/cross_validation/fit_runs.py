"""A cross-validation put together from runs of `train.py fit --data.fold K` (A415)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from engine.checkpoints.restore import read_record
from engine.config.files import check_config_file
from engine.config.sections import instantiate_data
from engine.cross_validation.devices import fold_devices
from engine.cross_validation.run import CrossValidation
from engine.deploy.bags import predict_bags
from evaluation.mil.fold_predictions import FoldPredictions
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.targets.folds import FoldScores, TargetFolds, TimeOptions
from lightning_modules.rebuilding import class_of
from lightning_modules.resuming import differences
from structures import Problem

# Arguments of the data in which the runs of one cross-validation may differ.
_OF_A_RUN = {"fold", "repeat", "seed", "num_workers", "eval_batch_size"}


class _Run(NamedTuple):
    folder: Path
    checkpoint: Path
    record: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of its data."""
        found: dict[str, Any] = self.record["blueprint"]["data"]["init_args"]
        return found

    @property
    def place(self) -> tuple[int, int]:
        """(repeat, fold)."""
        return int(self.arguments["repeat"]), int(self.arguments["fold"])

    @property
    def data_file(self) -> Path:
        """The npz file or the table."""
        kind: Any = class_of(self.record["blueprint"]["data"])
        return Path(str(self.arguments[kind.path_argument]))


def cross_validation_of_runs(
    folders: Sequence[Path],
    select: Literal["last", "best"],
    progress: Callable[[float, int], None],
    options: TimeOptions = TimeOptions(),  # noqa: B008
) -> tuple[CrossValidation, list[Path]]:
    """Predict the test fold of each run and score the folds as `cross_validate` does.

    Args:
        folders: run folders, one for each fold of each repeat, in any order.
        select: ``last`` for ``last.ckpt`` of each run, ``best`` for ``best.ckpt``.
        progress: called with (runs done, number of runs).
        options: how times are scored.

    Returns:
        The cross-validation, and the files that were read.

    Raises:
        ValueError: a run has no such checkpoint or no fold, a fold is missing or occurs twice, or
            the runs were trained with different settings.
    """
    start = time.perf_counter()
    runs = sorted((_read(Path(folder), select) for folder in folders), key=lambda run: run.place)
    _check_places(runs)
    _check_alike(runs)
    data: Any = instantiate_data(runs[0].record["blueprint"]["data"], {})
    options.check(data.task)
    count, repeats = len(data.source("test")), runs[-1].place[0] + 1
    folds = np.full((repeats, count), -1, dtype=np.int64)
    found: list[BagPredictions] = []
    for run in runs:
        found.append(predict_bags(run.checkpoint, run.data_file))
        repeat, fold = run.place
        folds[repeat, found[-1].scores.index] = fold
        progress(len(found), len(runs))
    if (folds < 0).any():
        have = ", ".join(f"{fold}" for repeat, fold in (run.place for run in runs) if repeat == 0)
        raise ValueError(
            f"{int((folds < 0).sum())} of {folds.size} test bags are in none of the {len(runs)} "
            f"runs, which are of folds {have}; also give the runs of the other folds"
        )
    joined = _joined(runs, found, folds)
    targets = _targets(runs, found, joined, options)
    scored = joined if targets is None else targets.scores()
    result = CrossValidation(
        metrics=scored.summary(),
        folds=folds,
        probabilities=joined.probabilities,
        protocol=f"{len(runs)} folds in {repeats} repeats {_protocol(runs[0], select)}",
        training="folds trained by fit",
        seconds=time.perf_counter() - start,
        predictions=joined if targets is None else targets,
        device=str(fold_devices("auto", 1)),
        problems=_problems(found),
        details=scored.details() if isinstance(scored, FoldScores) else {},
    )
    return result, [*(run.checkpoint for run in runs), runs[0].data_file]


def _read(folder: Path, select: str) -> _Run:
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; --runs takes run folders, e.g. runs/abmil/version_0"
        )
    checkpoint = folder / "checkpoints" / f"{select}.ckpt"
    if not checkpoint.is_file():
        other = "last" if select == "best" else "best"
        raise ValueError(
            f"{folder}: has no checkpoints/{select}.ckpt; name the folder of a run of `python "
            f"train.py fit`, or give --select {other}"
        )
    record = read_record(checkpoint)
    data = record["blueprint"]["data"]
    if getattr(class_of(data), "path_argument", None) is None or "fold" not in data["init_args"]:
        raise ValueError(f"{folder}: was not trained on folds of bags ({data['class_path']})")
    if data["init_args"]["fold"] is None:
        raise ValueError(
            f"{folder}: was not trained with a test fold; train each fold by `python train.py fit "
            "--data.fold K`"
        )
    return _Run(folder, checkpoint, record)


def _check_places(runs: Sequence[_Run]) -> None:
    owners: dict[tuple[int, int], Path] = {}
    for run in runs:
        if (other := owners.setdefault(run.place, run.folder)) != run.folder or (
            sum(r.folder == run.folder for r in runs) > 1
        ):
            raise ValueError(
                f"{other} and {run.folder} are both of repeat {run.place[0]}, fold "
                f"{run.place[1]}; give one run for each fold"
            )
    repeats = max(repeat for repeat, _ in owners) + 1
    count = max(fold for _, fold in owners) + 1
    missing = [(r, k) for r in range(repeats) for k in range(count) if (r, k) not in owners]
    if missing:
        named = ", ".join(f"repeat {repeat}, fold {fold}" for repeat, fold in missing[:5])
        raise ValueError(
            f"no run of {named}; train it by --data.repeat and --data.fold, and give it to --runs"
        )


def _check_alike(runs: Sequence[_Run]) -> None:
    first = _settings(runs[0])
    for run in runs[1:]:
        if changes := differences(first, _settings(run)):
            raise ValueError(
                f"{run.folder} was trained with other settings than {runs[0].folder} "
                f"({'; '.join(changes[:5])}); give runs that differ in fold and repeat alone"
            )


def _settings(run: _Run) -> dict[str, Any]:
    arguments = {k: v for k, v in run.arguments.items() if k not in _OF_A_RUN}
    trainer = _config(run).get("trainer") or {}
    limits = {name: trainer.get(name) for name in ("max_epochs", "max_steps")}
    return {"model": run.record["blueprint"]["model"], "data": arguments, "trainer": limits}


def _config(run: _Run) -> Mapping[str, Any]:
    file = run.folder / "config.yaml"
    return check_config_file(file) if file.is_file() else {}


def _joined(
    runs: Sequence[_Run], found: Sequence[BagPredictions], folds: np.ndarray[Any, Any]
) -> FoldPredictions:
    """Put the predictions of the runs' test bags together."""
    one = found[0].scores
    probabilities = np.zeros((*folds.shape, *one.probabilities.shape[1:]))
    labels = np.zeros((folds.shape[1], *one.labels.shape[1:]), dtype=one.labels.dtype)
    names, groups = [""] * folds.shape[1], [""] * folds.shape[1]
    for run, part in zip(runs, found, strict=True):
        scores = part.scores
        probabilities[run.place[0], scores.index] = scores.probabilities
        labels[scores.index] = scores.labels
        for place, number in enumerate(scores.index.tolist()):
            names[number] = scores.bag_ids[place]
            groups[number] = scores.groups[place] if scores.groups else ""
    return FoldPredictions(
        bag_ids=tuple(names),
        labels=labels,
        folds=folds,
        probabilities=probabilities,
        thresholds={run.place: _threshold(part) for run, part in zip(runs, found, strict=True)},
        task=found[0].task,
        class_names=tuple(runs[0].record["facts"]["class_names"]),
        groups=tuple(groups) if all(groups) else (),
    )


def _targets(
    runs: Sequence[_Run],
    found: Sequence[BagPredictions],
    joined: FoldPredictions,
    options: TimeOptions,
) -> TargetFolds | None:
    """Return predictions of times, values or grades by fold, or None of classes."""
    pairs = zip(runs, found, strict=True)
    folds = {run.place: part.target for run, part in pairs if part.target is not None}
    return TargetFolds(joined.task, joined.labels, folds, options) if folds else None


def _threshold(found: BagPredictions) -> float:
    return 0.5 if found.threshold is None else found.threshold


def _protocol(run: _Run, select: str) -> str:
    config = _config(run)
    trainer, saving = config.get("trainer") or {}, config.get("checkpoint") or {}
    limits = {"steps": trainer.get("max_steps"), "epochs": trainer.get("max_epochs")}
    length = " or ".join(f"{n} {name}" for name, n in limits.items() if n not in (None, -1))
    text = f"(runs of fit), {length or 'unknown length'} each"
    return text + (f", best {saving.get('monitor')}" if select == "best" else "")


def _problems(found: Sequence[BagPredictions]) -> tuple[Problem, ...]:
    return tuple(dict.fromkeys(problem for part in found for problem in part.problems))
