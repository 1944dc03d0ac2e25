"""What a run of `train.py` leaves as artifacts of W&B: data, checkpoints and predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from loggers.wandb_artifacts import (
    TABLES,
    ArtifactSpec,
    log_artifact,
    model_spec,
    recorded,
    use_artifact,
    write_record,
)
from loggers.wandb_names import run_id_of


class Results(NamedTuple):
    """What a run has used and made.

    Attributes:
        run_dir: its folder.
        data: its data, None if they are unknown.
        callback: the callback that has saved checkpoints, None if there is none.
        wanted: which of them are logged, see `WandbOptions.checkpoints`.
        tested: the checkpoint that was scored or has predicted, None for a training.
    """

    run_dir: Path
    data: ArtifactSpec | None
    callback: Any
    wanted: str
    tested: Path | None


def log_results(run: Any, results: Results) -> None:
    """Log the artifacts of a run, each with what it was made from.

    Args:
        run: the W&B run.
        results: see `Results`.
    """
    inputs = [] if results.data is None else [use_artifact(run, results.data)]
    if results.tested is not None:
        model = model_spec(results.tested, run_id_of(results.tested))
        origins = recorded(results.tested).get(model.name, ())
        inputs.append(use_artifact(run, model, origins))
    specs = [*_models(run.id, results), *_predictions(run.id, results)]
    for spec in specs:
        log_artifact(run, spec, inputs)
    write_record(results.run_dir, {spec.name: inputs for spec in specs})


def _models(run_id: str, results: Results) -> list[ArtifactSpec]:
    """Return the checkpoints of a training that are logged."""
    wanted, callback = results.wanted, results.callback
    if wanted == "none" or callback is None:
        return []
    paths = {"last": Path(callback.last_path), "best": Path(callback.best_model_path)}
    found = {alias: path for alias, path in paths.items() if path.is_file()}
    if wanted == "reference":
        chosen = {"best"} if "best" in found else {"last"}
    else:
        chosen = {"best", "last"} if wanted == "both" else {wanted}
    specs = []
    for alias, path in found.items():
        facts = {"monitor": callback.monitor}
        if alias == "best" and callback.best_model_score is not None:
            facts["score"] = float(callback.best_model_score)
        copied = wanted != "reference"
        spec = model_spec(path, run_id, copied=copied, alias=alias, facts=facts)
        specs += [spec] if alias in chosen else []
    return specs


def _predictions(run_id: str, results: Results) -> list[ArtifactSpec]:
    """Return the tables of predictions in the folder of a run that has no training."""
    folder = results.run_dir / "predictions"
    files = {p.name: p for p in sorted(folder.glob("*")) if p.suffix in TABLES and p.is_file()}
    if results.tested is None or not files:
        return []
    return [ArtifactSpec("predictions", f"predictions-{run_id}", files, copied=True)]
