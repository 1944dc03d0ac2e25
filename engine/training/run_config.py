"""The configuration file and the provenance of a run."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import SaveConfigCallback

from datamodules.fingerprint import data_sources, fingerprint
from engine.config.sections import plain
from engine.training.requeue import JOB, job_id
from loggers.provenance import PROVENANCE_FILE, provenance, write_provenance
from loggers.wandb_artifacts import ArtifactSpec, dataset_spec
from loggers.wandb_logger import SafeWandbLogger


class RunConfigCallback(SaveConfigCallback):
    """Save the resolved configuration as ``config.yaml`` in the run folder.

    A run that is resumed in its folder keeps an earlier, different configuration as
    ``config_<k>.yaml`` and an earlier, different provenance as ``provenance_<k>.json``.

    Args:
        given: parser and configuration, see `SaveConfigCallback`.
        command: the words of the command line.
        options: further arguments of `SaveConfigCallback`.
    """

    def __init__(self, *given: Any, command: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*given, **options)
        self.command = command

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Save the configuration; when resuming, wait until the checkpoint has been loaded."""
        if stage != "fit" or not self.config.get("ckpt_path"):
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the configuration of a resumed run."""
        if self.already_saved:
            return
        folder = Path(str(trainer.log_dir))  # a broadcast, so every process has to call it
        files = [folder / self.config_filename, folder / PROVENANCE_FILE]
        before = {f: f.read_text() for f in files if trainer.is_global_zero and f.is_file()}
        super().setup(trainer, pl_module, "fit")
        for file, text in before.items():
            if _choices(text) != _choices(file.read_text()):
                kept = len(list(folder.glob(f"{file.stem}_*{file.suffix}")))
                file.with_name(f"{file.stem}_{kept}{file.suffix}").write_text(text)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write ``provenance.json`` and log the configuration and the provenance to W&B."""
        del pl_module
        config = plain(self.config)
        data = type(trainer.datamodule)  # type: ignore[attr-defined]
        record = provenance(self.command, fingerprint(data, config["data"]["init_args"]))
        record |= {} if (job := job_id()) is None else {JOB: job}
        write_provenance(Path(str(trainer.loggers[0].log_dir)), record)
        for logger in trainer.loggers[1:]:
            logger.log_hyperparams(config | record)
            if isinstance(logger, SafeWandbLogger):
                logger.data = functools.partial(_dataset, data, config["data"], record["data_hash"])
                scored = stage != "fit" and config.get("ckpt_path")
                logger.tested = Path(config["ckpt_path"]) if scored else None


def _dataset(kind: type, section: Mapping[str, Any], data_hash: str) -> ArtifactSpec:
    """Return the data of a run as an artifact of W&B."""
    sources = data_sources(kind, section["init_args"])
    return dataset_spec(data_hash, sources, {"class_path": section["class_path"]})


def _choices(text: str) -> dict[str, Any]:
    """Return the content of a YAML or JSON file without the checkpoint that a run continues."""
    return {k: v for k, v in yaml.safe_load(text).items() if k != "ckpt_path"}
