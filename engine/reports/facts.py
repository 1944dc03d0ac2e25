"""What run folders say of a training: epochs, steps, time, memory and how to make it again."""

from __future__ import annotations

import platform
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.reports.folder import RunFolder
from evaluation.report.page.content import Recipe, RunFacts
from evaluation.report.page.training import TrainingLog, read_log
from evaluation.report.record import package_versions
from formats.files import file_hash
from formats.weights.files import read_file


@dataclass(frozen=True)
class Predicted:
    """What a run predicted, for its facts.

    Attributes:
        data: what the data are.
        split: their split.
        count: images or bags.
        data_hash: hash of the data.
        predictions: file of the predictions.
        parameters: of the model, or None.
    """

    data: str
    split: str
    count: int
    data_hash: str
    predictions: Path
    parameters: int | None


def training_log(run: RunFolder) -> TrainingLog:
    """Return the log of the training of a run; that of a test is looked up by its checkpoint."""
    return read_log(run.training / "metrics.csv")


def run_facts(run: RunFolder, found: Predicted, log: TrainingLog) -> RunFacts:
    """Return what the summary says of a run."""
    is_training = run.predictions is None or run.training != run.folder
    return RunFacts(
        name=run.name,
        folder=str(run.folder),
        model=run.model,
        checkpoint=None if run.checkpoint is None else str(run.checkpoint),
        data=found.data,
        split=found.split,
        count=found.count,
        best_epoch=_best_epoch(run.checkpoint),
        last_epoch=log.last_epoch if is_training else None,
        steps=log.steps if is_training else None,
        seconds=log.seconds,
        memory_mib=log.memory_mib,
        parameters=found.parameters,
    )


def _best_epoch(checkpoint: Path | None) -> int | None:
    """Return the epoch whose validation chose a checkpoint, None for one that was not chosen.

    The last checkpoint of a training may already count the epoch that would come next.
    """
    if checkpoint is None or checkpoint.name != "best.ckpt" or not checkpoint.is_file():
        return None
    epoch: Any = read_file(checkpoint).get("epoch")
    return epoch if isinstance(epoch, int) else None


def run_recipe(run: RunFolder, found: Predicted, commands: dict[str, list[object]]) -> Recipe:
    """Return how a run and its numbers are made again.

    Args:
        run: the run folder.
        found: the predictions of the run and their data.
        commands: what a number comes from -> words after ``python evaluate.py``.
    """
    made = run.provenance.get("command")
    lines = [("run", f"python {made}")] if made else []
    lines += [
        (name, f"python evaluate.py {shlex.join(map(str, words))}")
        for name, words in commands.items()
    ]
    return Recipe(run.name, run.configuration, tuple(lines), tuple(_facts(run, found)))


def _facts(run: RunFolder, found: Predicted) -> list[tuple[str, str]]:
    facts = [("run folder", str(run.folder)), ("data", found.data), ("data hash", found.data_hash)]
    if run.checkpoint is not None:
        facts += [
            ("checkpoint", str(run.checkpoint)),
            ("checkpoint hash", file_hash(run.checkpoint)),
        ]
    facts += [("predictions", str(found.predictions))]
    facts += [("predictions hash", file_hash(found.predictions))]
    commit = run.provenance.get("git_commit")
    if commit:
        dirty = " with changes" if run.provenance.get("git_dirty") else ""
        facts.append(("git commit of the run", f"{commit}{dirty}"))
    versions = run.provenance.get("versions") or {}
    if versions:
        python = run.provenance.get("python")
        facts.append(("versions of the run", _listed({"python": python, **versions})))
    here = {"python": platform.python_version(), **package_versions()}
    facts.append(("versions of the report", _listed(here)))
    return facts


def _listed(versions: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
