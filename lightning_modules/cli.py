"""The command line of `train.py`: LightningCLI with segmil's links, run folder and checkpoints."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities import rank_zero_warn

from lightning_modules.restore import LINKS, data_at, plain, read_record, without_sources

ROOT = Path(__file__).resolve().parents[1]
BASE_CONFIG = ROOT / "configs" / "_base" / "trainer.yaml"


@dataclass(frozen=True)
class WandbOptions:
    """Where and how to log to Weights & Biases.

    Attributes:
        project: project name.
        mode: ``offline`` writes the run to disk, to be sent later by ``wandb sync``.
        entity: team or user, None for the default.
        group: joins runs of one experiment, for example folds.
        tags: free labels.
    """

    project: str = "segmil"
    mode: Literal["offline", "online"] = "offline"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()


class RunConfigCallback(SaveConfigCallback):
    """Save the resolved configuration as ``config.yaml`` in the run folder."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Also tell W&B the configuration; the CSV logger has the file beside it."""
        del pl_module, stage
        for logger in trainer.loggers[1:]:
            logger.log_hyperparams(plain(self.config))


class SegmilCLI(LightningCLI):
    """`train.py fit | validate | test | predict`."""

    def __init__(self, args: list[str]) -> None:
        stages = ("fit", "validate", "test", "predict")
        defaults = {"default_config_files": [str(BASE_CONFIG)], "exit_on_error": False}
        super().__init__(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfigCallback,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"exit_on_error": False} | dict.fromkeys(stages, defaults),
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name, W&B, the checkpoint callback and the links from data to model."""
        parser.add_argument("--name", type=str, help="run name; default: the recipe's file name")
        parser.add_argument(
            "--runs_dir", type=Path, default=Path("runs"), help="parent of all runs"
        )
        parser.add_argument("--wandb", type=WandbOptions | None, default=None)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        for fact, target in LINKS.items():
            parser.link_arguments(f"data.{fact}", f"model.{target}", apply_on="instantiate")

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Read every checkpoint without executing pickled code."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        for parser in self._subcommand_parsers.values():
            parser.set_defaults({"weights_only": True})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments given; a wrong one raises and leaves no usage text behind."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and the loggers before the trainer is built."""
        from callbacks.loggers import build_loggers, next_run_dir

        config = self.config[self.subcommand]
        self.run_dir = next_run_dir(Path(config.runs_dir), config.name or _recipe_name(config))
        config.trainer.logger = None
        self._loggers = lambda: build_loggers(self.run_dir, config.wandb)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with our loggers, CSV first: its folder is the run folder."""
        config = self.config_init[self.subcommand].trainer
        if config.enable_progress_bar is False:
            config.callbacks = [
                c for c in config.callbacks or [] if not isinstance(c, pl.callbacks.ProgressBar)
            ]
        arguments = {**kwargs, "logger": self._loggers()}  # type: ignore[no-untyped-call]
        return super().instantiate_trainer(**arguments)

    def instantiate_classes(self) -> None:
        """Hand the module its resolved configuration, which its checkpoints carry."""
        super().instantiate_classes()  # type: ignore[no-untyped-call]
        config = self.config[self.subcommand]
        self.model.blueprint = {
            "model": plain(config.model),
            "data": plain(config.data),
            "links": {
                f: plain(getattr(self.datamodule, f)) for f in LINKS if hasattr(self.datamodule, f)
            },
        }


def _recipe_name(config: Any) -> str:
    files = [p for p in config.get("config") or [] if p is not None]
    return Path(str(files[0])).stem if files else "run"


def predict_arguments(args: list[str], folder: Path) -> list[str]:
    """Turn `predict --ckpt_path C [--data PATH]` into arguments with a configuration file.

    The file is made from what the checkpoint carries, so every other flag works as with a recipe.

    Args:
        args: the user's arguments, beginning with ``predict``.
        folder: where to write the configuration file.

    Raises:
        ValueError: no checkpoint is named, or it is not a segmil checkpoint.
    """
    rest, checkpoint = _take(args[1:], "--ckpt_path")
    if checkpoint is None:
        raise ValueError("predict needs --ckpt_path FILE (or --config RECIPE.yaml)")
    record = read_record(Path(checkpoint))
    data = record["blueprint"]["data"]
    others, target = _take(rest, "--data")
    if target is not None and Path(target).exists():
        rest, data = others, data_at(Path(target), record)
    elif target is not None and not re.fullmatch(r"\w+(\.\w+)+", target):
        raise ValueError(f"--data {target}: no such file or folder")
    elif data["class_path"].endswith("CocoDataModule"):
        data["init_args"]["category_map"] = record["facts"]["category_map"]
    recipe = {
        "model": without_sources(record["blueprint"]["model"]),
        "data": data,
        "trainer": {"precision": record["precision"]},
    }
    path = folder / f"{Path(checkpoint).stem}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    named = [] if _take(rest, "--name")[1] else ["--name", "predict"]
    return ["predict", "--config", str(path), *named, *rest, "--ckpt_path", checkpoint]


def _take(args: list[str], flag: str) -> tuple[list[str], str | None]:
    """Remove ``flag VALUE`` or ``flag=VALUE`` and return the value."""
    for i, word in enumerate(args):
        if word == flag and i + 1 < len(args):
            return args[:i] + args[i + 2 :], args[i + 1]
        if word.startswith(f"{flag}="):
            return args[:i] + args[i + 1 :], word.split("=", 1)[1]
    return args, None


def run(args: list[str]) -> SegmilCLI:
    """Run one command of `train.py`.

    Raises:
        ValueError: the input is wrong.
    """
    if args[0] == "predict" and not any(a.split("=")[0] == "--config" for a in args):
        with tempfile.TemporaryDirectory() as folder:
            return _run(predict_arguments(args, Path(folder)))
    return _run(args)


def _run(args: list[str]) -> SegmilCLI:
    from callbacks.loggers import finish_loggers, forget_run_dir

    checkpoint = _take(args, "--ckpt_path")[1]
    if checkpoint not in (None, "null"):
        read_record(Path(str(checkpoint)))  # refuses a wrong file before anything is built
    try:
        cli = SegmilCLI(args)
    finally:
        forget_run_dir()
    finish_loggers(cli.trainer.loggers)
    saved = cli.trainer.checkpoint_callback
    trained = cli.subcommand == "fit" and not cli.trainer.fast_dev_run  # type: ignore[attr-defined]
    if trained and isinstance(saved, ModelCheckpoint) and not saved.best_model_path:
        rank_zero_warn(f"nothing gave {saved.monitor}, so there is no best.ckpt: use last.ckpt")
    return cli
