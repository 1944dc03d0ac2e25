"""Logging of an evaluation to W&B, as a run beside the training that it scores."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from PIL import Image

from loggers.run import forget_run_dir, next_run_dir, stay_inside
from loggers.run_files import rasterise
from loggers.wandb_artifacts import (
    ArtifactSpec,
    Made,
    dataset_spec,
    log_artifact,
    model_spec,
    recorded,
    use_artifact,
)
from loggers.wandb_charts import records_table
from loggers.wandb_logger import SafeWandbLogger, WandbOptions
from loggers.wandb_media import Media
from loggers.wandb_names import group_name, run_id_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Evaluation", "WandbOptions", "log_evaluation"]

JOB_TYPE = "evaluate"
MAX_PAGE = 10 * 2**20  # bytes of an HTML page that is shown in the run itself (A849)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation logs.

    Attributes:
        command: name of the command, such as ``coco``.
        metrics: numbers by name, possibly nested; others than numbers are left out.
        facts: configuration of the run.
        checkpoints: the checkpoints that are scored; the run is in the group of the first one's
            training.
        data: files and folders by name that the scores are of.
        data_hash: hash of the data, required where there are ``data``.
        predictions: name -> a file that exists, or a function that writes one at a path.
        page: an HTML report, or None.
        tables: name -> rows with equal keys.
        charts: name -> function that returns a native W&B object (see `loggers.wandb_charts`).
        figures: name -> function that returns a figure, or a PNG file.
        own_data: whether the checkpoints predicted the data of their own trainings.
    """

    command: str
    metrics: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: Sequence[Path] = ()
    data: Mapping[str, Path] = field(default_factory=dict)
    data_hash: str = ""
    predictions: Mapping[str, Path | Callable[[Path], object]] = field(default_factory=dict)
    page: Path | None = None
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    charts: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    figures: Mapping[str, Callable[[], Figure] | Path] = field(default_factory=dict)
    own_data: bool = False


class Training(NamedTuple):
    """The W&B run of a training, as its run folder tells.

    Attributes:
        run_id: its id.
        group: its group.
        entity: its team or user, None for the default.
    """

    run_id: str
    group: str
    entity: str | None


def training_of(checkpoint: Path) -> Training | None:
    """Return the W&B run of the training that wrote a checkpoint; None if it has none."""
    run_id = run_id_of(checkpoint)
    if run_id is None:
        return None
    folder = checkpoint.resolve().parent.parent
    recipe = folder / "config.yaml"
    config = yaml.safe_load(recipe.read_text()) if recipe.is_file() else None
    options = (config or {}).get("wandb") or {}
    group = str(options.get("group") or group_name(folder))
    return Training(run_id, group, options.get("entity"))


def log_evaluation(options: WandbOptions, evaluation: Evaluation) -> str:
    """Log an evaluation as a run of job type ``evaluate``, and return a message about the result.

    The folder of the run is ``runs/evaluate_<command>/version_<k>``. No failure is raised.

    Args:
        options: project and mode.
        evaluation: see `Evaluation`.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # the returned message is the only output
    try:
        return _log_evaluation(options, evaluation)
    except ModuleNotFoundError:
        return "W&B is not installed (`pip install wandb`); nothing was logged"
    except OSError as error:  # no space, or a folder that cannot be written
        return f"W&B: nothing was logged ({error})"


def _log_evaluation(options: WandbOptions, evaluation: Evaluation) -> str:
    folder = next_run_dir(Path("runs"), f"{JOB_TYPE}_{evaluation.command.replace('-', '_')}")
    forget_run_dir()
    stay_inside(folder)
    trainings = [training_of(path) for path in evaluation.checkpoints]
    first = next((training for training in trainings if training is not None), None)
    options = dataclasses.replace(
        options,
        group=options.group or (first.group if first else None),
        entity=options.entity or (first.entity if first else None),
        job_type=JOB_TYPE,
    )
    logger = SafeWandbLogger(folder, options)
    known = [training.run_id for training in trainings if training is not None]
    logger.log_hyperparams({**evaluation.facts, "trainings": known})
    numbers = {f"{JOB_TYPE}/{name}": value for name, value in _numbers(evaluation.metrics)}
    logger.log_metrics(numbers)
    with logger.attempt("did not accept tables or figures"):
        logger.log_metrics({f"{JOB_TYPE}/{k}": v for k, v in _media(evaluation).items()})
    with logger.attempt("did not accept artifacts"):
        _artifacts(logger, evaluation, trainings, folder)
    logger.finish()
    if logger.failed:
        return f"W&B failed; the evaluation was not logged completely, see {folder}"
    grouped = f", group {options.group}" if options.group else ""
    return f"logged to W&B ({options.mode}): {folder}{grouped}"


def _numbers(metrics: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of nested dictionaries, with names joined by ``/``."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{name}/")
        elif isinstance(value, int | float | np.number) and math.isfinite(value):
            yield f"{before}{name}", float(value)


def _media(evaluation: Evaluation) -> dict[str, Any]:
    """Return tables, charts, figures and the page as W&B's objects."""
    import wandb

    found: dict[str, Any] = {
        name: records_table(rows) for name, rows in evaluation.tables.items() if rows
    }
    found |= {name: make() for name, make in evaluation.charts.items()}
    for name, figure in evaluation.figures.items():
        if isinstance(figure, Path):
            pixels = np.asarray(Image.open(figure).convert("RGB"))
        else:
            pixels = rasterise(figure())
        found[name] = Media(pixels, evaluation.command).as_image()
    page = evaluation.page
    if page is not None and page.stat().st_size <= MAX_PAGE:
        found["report"] = wandb.Html(str(page), inject=False)  # the page's own bytes
    return found


def _artifacts(
    logger: SafeWandbLogger,
    evaluation: Evaluation,
    trainings: Sequence[Training | None],
    folder: Path,
) -> None:
    """Log data, models, predictions and report, each with what it was made from."""
    run = logger.experiment
    if logger.failed:
        return
    inputs = []
    if evaluation.data:
        data = dataset_spec(evaluation.data_hash, evaluation.data, {})
        inputs.append(use_artifact(run, data))
    for path, training in zip(evaluation.checkpoints, trainings, strict=True):
        model = model_spec(path, None if training is None else training.run_id)
        origins = recorded(path).get(model.name, ())
        inputs.append(use_artifact(run, model, origins))
        if evaluation.own_data:  # which the training has logged
            inputs += _datasets(origins, inputs)
    if evaluation.page is not None and not evaluation.data:
        for source in evaluation.predictions.values():
            if isinstance(source, Path):  # of a run of `test`, which has logged its data
                inputs += _datasets(chain(*recorded(source).values()), inputs)
    files = _written(evaluation, folder / "predictions")
    made: list[Made] = []
    if files:
        spec = ArtifactSpec("predictions", f"predictions-{run.id}", files, copied=True)
        made.append(log_artifact(run, spec, inputs))
    if evaluation.page is not None:
        page = {evaluation.page.name: evaluation.page}
        spec = ArtifactSpec("report", f"report-{run.id}", page, copied=True)
        log_artifact(run, spec, [*inputs, *made])


def _datasets(origins: Iterable[Made], known: Sequence[Made]) -> list[Made]:
    """Return the data among the origins of an artifact that are not known yet."""
    found = dict.fromkeys(one for one in origins if one.type == "dataset")
    return [one for one in found if one not in known]


def _written(evaluation: Evaluation, folder: Path) -> dict[str, Path]:
    """Return the files of the predictions; those that do not exist yet are written."""
    files = {}
    for name, source in evaluation.predictions.items():
        path = source if isinstance(source, Path) else folder / name
        if not isinstance(source, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
            source(path)
        files[name] = path
    return files
