"""The command line of `train.py`: LightningCLI with segmil's links, run folder and checkpoints."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentError
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.best_values import BestValues
from callbacks.checkpoints import RunCheckpoint
from callbacks.ema import EMA, EMAOptions
from callbacks.provenance import PROVENANCE_FILE, provenance, write_provenance
from callbacks.standard import StandardCallbacks
from callbacks.wandb_logger import WandbOptions
from datamodules.fingerprint import fingerprint
from lightning_modules.checkpoint_io import AtomicCheckpointIO
from lightning_modules.config_errors import config_files
from lightning_modules.config_faults import every_fault
from lightning_modules.config_files import check_config_files, check_monitors, check_values
from lightning_modules.restore import LINKS, data_at, plain, read_record, without_sources
from lightning_modules.resuming import Continuation, continuation
from lightning_modules.staged import StagedMILModule
from lightning_modules.staged_runs import (
    FOLDER,
    first_stage_config,
    first_stage_section,
    interrupted_run,
    unfinished_stage,
)
from lightning_modules.weights import read_file, state_dict_of

ROOT = Path(__file__).resolve().parents[1]
BASE_CONFIG = ROOT / "configs" / "_base" / "trainer.yaml"
_STAGES = ("fit", "validate", "test", "predict")


class RunConfigCallback(SaveConfigCallback):
    """Save the resolved configuration as ``config.yaml`` in the run folder.

    A run that goes on in its folder keeps an earlier, different one as ``config_<k>.yaml``, and an
    earlier record of where it came from as ``provenance_<k>.json``.

    Args:
        given: parser and configuration, see `SaveConfigCallback`.
        command: words of the command line.
        options: further arguments of `SaveConfigCallback`.
    """

    def __init__(self, *given: Any, command: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*given, **options)
        self.command = command

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Save at once, but when resuming only after the checkpoint has turned out to fit."""
        if stage != "fit" or not self.config.get("ckpt_path"):
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the configuration of a resumed run."""
        if self.already_saved:
            return
        folder = Path(str(trainer.log_dir))  # every process asks: they agree on it by a broadcast
        files = [folder / self.config_filename, folder / PROVENANCE_FILE]
        before = {f: f.read_text() for f in files if trainer.is_global_zero and f.is_file()}
        super().setup(trainer, pl_module, "fit")
        for file, text in before.items():
            if _choices(text) != _choices(file.read_text()):
                kept = len(list(folder.glob(f"{file.stem}_*{file.suffix}")))
                file.with_name(f"{file.stem}_{kept}{file.suffix}").write_text(text)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Also write what the run comes from (``provenance.json``), and tell W&B both."""
        del pl_module, stage
        config = plain(self.config)
        data = type(trainer.datamodule)  # type: ignore[attr-defined]
        record = provenance(self.command, fingerprint(data, config["data"]["init_args"]))
        write_provenance(Path(str(trainer.loggers[0].log_dir)), record)
        for logger in trainer.loggers[1:]:
            logger.log_hyperparams(config | record)


class SegmilCLI(LightningCLI):
    """`train.py fit | validate | test | predict`.

    Args:
        args: words of the command line.
        folder: where a first stage runs, None for a run of its own.
        command: words that the user gave, where they are not ``args``.
    """

    def __init__(
        self, args: list[str], folder: Path | None = None, command: Sequence[str] = ()
    ) -> None:
        self._args, self._folder = args, folder
        self._first_checkpoint: Path | None = None  # of a first stage that is to be ended
        defaults = {"default_config_files": [str(BASE_CONFIG)], "exit_on_error": False}
        super().__init__(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfigCallback,
            save_config_kwargs={"overwrite": True, "command": ["train.py", *(command or args)]},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"exit_on_error": False} | dict.fromkeys(self.subcommands(), defaults),
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the command asked for alone: building the parsers of the others takes as long."""
        every = LightningCLI.subcommands()
        asked = self._args[0] if self._args else ""
        return {asked: every[asked]} if asked in every else every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name, W&B, EMA, the checkpoint callback and the links of the data."""
        parser.add_argument("--name", type=str, help="run name; default: the recipe's file name")
        parser.add_argument(
            "--runs_dir", type=Path, default=Path("runs"), help="parent of all runs"
        )
        parser.add_argument("--wandb", type=WandbOptions | None, default=None)
        parser.add_class_arguments(StandardCallbacks, "callbacks")
        parser.add_argument("--ema", type=EMAOptions | None, default=None)
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
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
        if self._args[0] in _STAGES:
            check_config_files(config_files(self._args), self._args)
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise ValueError(every_fault(parser.parse_args, self._args, str(error))) from None
        command = self.config.subcommand
        config = self.config[command]
        check_values(config, LINKS, trains=command == "fit")
        if config.ckpt_path is None:
            return
        checkpoint = Path(str(config.ckpt_path))
        read_record(checkpoint)  # refuses a wrong file before anything is built
        goes_on = command == "fit" and interrupted_run(checkpoint) is not None
        if goes_on and first_stage_section(plain(config.model)) is not None:
            self._first_checkpoint, config.ckpt_path = checkpoint, None

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and the loggers before the trainer is built."""
        from callbacks.loggers import build_loggers, next_run_dir

        config = self.config[self.subcommand]
        goes_on = self._continuation(config)
        if goes_on is not None:
            self.run_dir = goes_on.folder
        elif self._folder is not None:
            self.run_dir = self._folder
        else:
            self.run_dir = next_run_dir(Path(config.runs_dir), config.name or _recipe_name(config))
        config.trainer.logger = None
        step = None if goes_on is None else goes_on.step
        self._loggers = lambda: build_loggers(self.run_dir, config.wandb, step)

    def _continuation(self, config: Any) -> Continuation | None:
        """Return the run to go on with; a name or another parent folder asks for a new one."""
        named = _take(self._args, "--name")[1] is not None
        if self.subcommand != "fit" or named or config.trainer.fast_dev_run:
            return None
        checkpoint = self._first_checkpoint or Path(str(config.ckpt_path))
        parent = _take(self._args, "--runs_dir")[1]
        if parent is not None and Path(parent).resolve() not in checkpoint.resolve().parents:
            return None
        goes_on = continuation(checkpoint) if checkpoint.is_file() else None
        if goes_on is not None and self._first_checkpoint is not None:
            return Continuation(goes_on.folder.parent, 0)
        if goes_on is not None and self._folder is not None:  # only in the run it is the first of
            return goes_on if goes_on.folder.resolve() == self._folder.resolve() else None
        return goes_on

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with our loggers, CSV first: its folder is the run folder."""
        config = self.config_init[self.subcommand].trainer
        own = config.callbacks or []
        config.callbacks = self.config_init[self.subcommand].callbacks.build(
            own if isinstance(own, list) else [own], config.enable_progress_bar
        )
        if config.enable_progress_bar is None:  # Lightning would put in its own where ours is off
            config.enable_progress_bar = any(isinstance(c, ProgressBar) for c in config.callbacks)
        if self.config_init[self.subcommand].wandb is not None:
            config.callbacks.append(BestValues())
        ema = self.config_init[self.subcommand].ema
        if ema is not None and self.subcommand == "fit":
            config.callbacks.insert(0, EMA(ema.decay, ema.warmup_steps))
        plugins = config.plugins or []
        plugins = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        arguments = {**kwargs, "logger": self._loggers(), "plugins": plugins}  # type: ignore[no-untyped-call]
        return super().instantiate_trainer(**arguments)

    def instantiate_classes(self) -> None:
        """Hand the module its resolved configuration, which its checkpoints carry."""
        super().instantiate_classes()  # type: ignore[no-untyped-call]
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            monitors: Any = self.trainer
            check_monitors(monitors.callbacks, getattr(self.model, "metric_names", ()))
        self.model.blueprint = {
            "model": plain(config.model),
            "data": plain(config.data),
            "links": {
                f: plain(getattr(self.datamodule, f)) for f in LINKS if hasattr(self.datamodule, f)
            },
        }

    def before_fit(self) -> None:
        """Train the first of two stages and hand its weights on."""
        config, module = plain(self.config[self.subcommand]), self.model
        section = first_stage_section(config["model"])
        if section is None or config["ckpt_path"] or not isinstance(module, StagedMILModule):
            return
        module.receive(self._first_stage(config, section, module.first_stage_weights))
        self._set_seed()  # as for a resumed run, in which nothing comes first

    def _first_stage(
        self, config: dict[str, Any], section: dict[str, Any], wanted: str
    ) -> dict[str, Tensor]:
        """Run the first stage in a folder of the run's own and return the weights of its model."""
        from callbacks.loggers import finish_loggers, is_first_process, stay_inside

        silent = bool(self.trainer.fast_dev_run)  # type: ignore[attr-defined]
        if is_first_process() and not silent:  # so that a run that is killed can go on
            self.run_dir.mkdir(parents=True, exist_ok=True)
            parser, recipe = self._parser("fit"), self.run_dir / "config.yaml"
            parser.save(self.config.fit, recipe, skip_none=False, overwrite=True, multifile=False)
        rank_zero_info(f"first of two stages: {section['class_path']}, in {self.run_dir / FOLDER}")
        content = first_stage_config(config, section, self._first_checkpoint)
        with tempfile.TemporaryDirectory() as folder:
            recipe = Path(folder) / "first_stage.yaml"
            recipe.write_text(yaml.safe_dump(content, sort_keys=False))
            arguments = ["fit", "--config", str(recipe)]
            first = SegmilCLI(arguments, self.run_dir / FOLDER, self._args)
        finish_loggers(first.trainer.loggers)
        rank_zero_info(f"second of two stages: {config['model']['class_path']}")
        if config["wandb"] is not None:
            stay_inside(self.run_dir)
        saved = first.trainer.checkpoint_callback
        best = saved.best_model_path if isinstance(saved, ModelCheckpoint) else ""
        if best and wanted == "best":
            return state_dict_of(read_file(best))
        if wanted == "best" and not silent:
            rank_zero_warn("nothing was monitored in the first stage: its last weights are taken")
        return first.model.model.state_dict()  # type: ignore[no-any-return]


def _choices(text: str) -> dict[str, Any]:
    """Return what a YAML or JSON file says, but for the checkpoint that a run goes on from."""
    return {k: v for k, v in yaml.safe_load(text).items() if k != "ckpt_path"}


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
    elif data["class_path"].endswith(("CocoDataModule", "YoloTxtDataModule")):
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


def run_arguments(args: list[str]) -> list[str]:
    """Turn `fit --ckpt_path RUN/checkpoints/last.ckpt` into arguments with the run's own recipe.

    Args:
        args: the user's arguments, beginning with ``fit``, ``validate`` or ``test``; other flags
            win over the recipe.

    Raises:
        ValueError: the file is not a segmil checkpoint, or does not lie in a run's folder.
    """
    checkpoint = _take(args[1:], "--ckpt_path")[1]
    if checkpoint is None:
        return args
    read_record(Path(checkpoint))
    run = interrupted_run(Path(checkpoint)) or Path(checkpoint).parent.parent
    recipe = run / "config.yaml"
    if not recipe.is_file():
        raise ValueError(f"{recipe}: no such file to take the recipe from; give --config RECIPE")
    return [args[0], "--config", str(recipe), *args[1:]]


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
    configured = any(a.split("=")[0] in ("--config", "-c") for a in args)
    elsewise = {"-h", "--help", "--model", "--ckpt_path"} & {a.split("=")[0] for a in args}
    others, checkpoint = _take(args, "--ckpt_path")
    if args[0] == "fit" and checkpoint is not None:
        args = [*others, "--ckpt_path", str(unfinished_stage(Path(checkpoint)))]
    if args[0] in ("fit", "validate", "test") and not configured and not elsewise:
        needs = "" if args[0] == "fit" else "--ckpt_path FILE or "
        raise ValueError(f"{args[0]} needs {needs}--config RECIPE.yaml; recipes are in configs/")
    if args[0] in ("fit", "validate", "test") and not configured:
        return _run(run_arguments(args))
    if args[0] == "predict" and not configured:
        with tempfile.TemporaryDirectory() as folder:
            return _run(predict_arguments(args, Path(folder)))
    return _run(args)


def _run(args: list[str]) -> SegmilCLI:
    from callbacks.loggers import finish_loggers, forget_run_dir

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
