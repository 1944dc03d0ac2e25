"""`train.py predict --data.slides DIR`: features of slides first, then the prediction over them.

The features are those of `datamodules.wsi` and `lightning_modules.extraction`, extracted as those
of the checkpoint's training were, which its facts tell (`formats.extraction`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.utilities import rank_zero_info

from callbacks.wsi.extraction_table import FAILED, ExtractionTable
from callbacks.wsi.feature_files import FeatureFiles
from datamodules.readers import arguments_of
from datamodules.wsi.base import SlideDataModule
from datamodules.wsi.first_stage import SlidesToPredict
from datamodules.wsi.slide_bags import SlideBagsDataModule
from engine.checkpoints.restore import read_record
from engine.config.recipe import Recipe, take_flag
from engine.config.sections import plain
from engine.training.launchers import launched
from formats.extraction import OUTLINED
from lightning_modules.extraction import ExtractionModule, encoder_section
from lightning_modules.rebuilding import class_of
from structures import DataProblems, Problem

FOLDER = "extraction"  # of the run, with the configuration of the extraction
FLAG = "--data.slides"
_OTHERWISE = (
    "extract the features as the training's were (docs/slides.md), and give their folder by "
    f"--data.features without {FLAG}"
)
_CALLBACKS = (FeatureFiles.entry, "progress")  # of the command, which the extraction also has
_OF_PREDICTION = (  # options of the trainer that mean the prediction alone
    "callbacks", "logger", "limit_predict_batches", "precision",
)  # fmt: skip


def asks_for_slides(args: Sequence[str]) -> bool:
    """Return whether a command line of `predict` names a folder of slides and a checkpoint."""
    words = list(args)
    return None not in (take_flag(words, FLAG)[1], take_flag(words, "--ckpt_path")[1])


def only_overlays(args: Sequence[str]) -> bool:
    """Return whether no file that a command line names by ``--config`` names a model."""
    contents = Recipe.of_words(args).contents()
    return not any("class_path" in (content.get("model") or {}) for content in contents)


def slides_section(checkpoint: Path, record: Mapping[str, Any], table: str | None) -> Any:
    """Return the ``data`` section that predicts slides.

    Args:
        checkpoint: the checkpoint.
        record: its ``segmil`` record.
        table: value of ``--data``.

    Raises:
        ValueError: the checkpoint does not tell how to extract, or no CSV is named.
    """
    extraction_facts(checkpoint, record)
    if table is None or Path(table).suffix.lower() != ".csv":
        given = "" if table is None else f", got {table}"
        raise ValueError(f"{FLAG} needs --data SLIDES.csv, a table with a column slide_id{given}")
    if not Path(table).is_file():
        raise ValueError(f"--data {table}: no such file")
    known = SlideBagsDataModule.arguments_like(record) or {}
    return SlideBagsDataModule.section({**known, "table": table})


def extraction_facts(checkpoint: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the features of a checkpoint's training were extracted.

    Raises:
        ValueError: the checkpoint is not one of slides, or does not tell all of it.
    """
    facts = record["facts"]
    if "class_names" not in facts:
        raise ValueError(f"{FLAG}: {checkpoint} predicts images, not slides; leave it out")
    found: dict[str, Any] | None = facts.get("extraction")
    if found is None:
        raise ValueError(
            f"{FLAG}: {checkpoint} does not tell how the features of its training were extracted: "
            "they are no feature files of segmil, or the checkpoint is older than this option; "
            f"{_OTHERWISE}, or train again"
        )
    if found["differ"]:
        raise ValueError(
            f"{FLAG}: the feature files of the training of {checkpoint} differ in "
            f"{', '.join(found['differ'])}; {_OTHERWISE}"
        )
    if "encoder" not in found:  # A665
        raise ValueError(
            f"{FLAG}: the feature files of the training of {checkpoint} are older than their "
            f"attribute encoder_config, which builds the encoder again; {_OTHERWISE}, or extract "
            "them again and train again"
        )
    return found


def extract_first(
    config: Any, run_dir: Path, stage: Callable[[list[str], Path], Any]
) -> list[Problem] | None:
    """Extract the features that a prediction of slides needs, and name their folder to it.

    Args:
        config: parsed configuration of the command; ``features`` and ``left_out`` of its data are
            set.
        run_dir: folder of the run.
        stage: runs the words of a command of `train.py` in a folder, and returns the command.

    Returns:
        The slides whose extraction failed, none where ``bad_data`` is ``skip``; None for data that
        are not to be extracted.

    Raises:
        ValueError: the features cannot be extracted as the training's were, files that are there
            were made otherwise, or no slide is left.
    """
    kind = class_of(config.data)
    if kind is None or not issubclass(kind, SlideBagsDataModule):
        return None
    if config.ckpt_path is None or config.trainer.fast_dev_run:
        raise ValueError(f"{FLAG} needs --ckpt_path, and works without trainer.fast_dev_run")
    given = config.data.init_args
    if given.features is None:
        if launched() is not None:  # whose processes do not know the folder of the first one's run
            raise ValueError("several processes of a launcher need --data.features DIR")
        given.features = run_dir / "predictions" / "features"
        rank_zero_info(f"features of the slides are written to {given.features}")
    checkpoint = Path(str(config.ckpt_path))
    found = extraction_facts(checkpoint, read_record(checkpoint))
    content = {
        "seed_everything": config.seed_everything,
        "model": _section(
            ExtractionModule, {"encoder": _encoder(checkpoint, found, given.encoder_weights)}
        ),
        "data": _section(SlidesToPredict, _slide_arguments(checkpoint, found, given)),
        "trainer": _trainer(config, found["settings"]),
        "callbacks": {n: plain(config.callbacks)[n] or n == FeatureFiles.entry for n in _CALLBACKS},
    }
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / f"{FOLDER}.yaml"
        recipe.write_text(yaml.safe_dump(plain(content), sort_keys=False))
        first = stage(["predict", "--config", str(recipe)], run_dir / FOLDER)
    return _failed(first.datamodule, given)


def _section(kind: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": dict(arguments)}


def _encoder(checkpoint: Path, found: Mapping[str, Any], weights: str | None) -> dict[str, Any]:
    try:
        return encoder_section(found["encoder"], weights)
    except ValueError as error:
        remedy = "leave out --data.encoder_weights, or give features by --data.features"
        if weights is None:
            remedy = (
                "which the checkpoint does not hold; give it by --data.encoder_weights FILE "
                f"(weights_sha256 {found['weights_sha256'][:12]}...)"
            )
        raise ValueError(f"{checkpoint}: the encoder {error}; {remedy}") from None


def _slide_arguments(checkpoint: Path, found: Mapping[str, Any], given: Any) -> dict[str, Any]:
    """Return the arguments of `SlidesToPredict`: settings of the training, places of the user."""
    known = arguments_of(SlideDataModule)
    settings = {n: v for n, v in found["settings"].items() if n in known}
    if given.tissue_outlines is not None:
        settings.pop("tissue", None)
    elif settings.get("tissue") == OUTLINED:  # A662
        raise ValueError(
            f"{checkpoint}: the tissue of its training was outlined; give the outlines of these "
            "slides by --data.tissue_outlines DIR"
        )
    return {
        **settings,
        "slides": given.slides,
        "features": given.features,
        "table": given.table,
        "weights_sha256": found["weights_sha256"],
        "settings": json.dumps(found["settings"]),
        "tissue_outlines": given.tissue_outlines,
        "batch_size": given.extraction_batch_size,
        "num_workers": given.extraction_workers,
        "bad_data": given.bad_data,
    }


def _trainer(config: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    section = {n: v for n, v in plain(config.trainer).items() if n not in _OF_PREDICTION}
    return {**section, "precision": settings["precision"]}


def _failed(slides: SlideDataModule, given: Any) -> list[Problem]:
    """Leave slides without features out of the prediction; return those that have failed (A663)."""
    rows = ExtractionTable(slides.features).read()
    failed = [h for h in slides.headers if rows.get(h.slide_id, {}).get("status") == FAILED]
    problems = [slides.failure(header, rows[header.slide_id]["reason"]) for header in failed]
    read = {header.slide_id for header in slides.headers}
    items = (problem.item for problem in slides.problems)  # left out by ``skip``
    others = {str(item) for item in items if item is not None} - read
    given.left_out = sorted({header.slide_id for header in failed} | others)
    if len(failed) == len(slides.headers):
        raise DataProblems(problems)
    return problems if given.bad_data == "error" else []
