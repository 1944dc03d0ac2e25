"""The command line of `train.py`: LightningCLI with segmil's links, run folder and checkpoints."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentError
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from callbacks.run.alerts import AlertOnError
from callbacks.run.best_values import BestValues
from callbacks.run.checkpoints import RunCheckpoint
from callbacks.run.early_stopping import EarlyStoppingOptions, StopEarly
from callbacks.run.ema import EMA, EMAOptions
from callbacks.run.model_size import ModelSize
from callbacks.run.stopping import StopOnSignal
from callbacks.standard import StandardCallbacks
from engine.checkpoints.atomic_io import AtomicCheckpointIO
from engine.checkpoints.continuation import Continuation, continuation
from engine.checkpoints.restore import read_record
from engine.checkpoints.stages import (
    FOLDER,
    first_stage_config,
    first_stage_section,
    interrupted_run,
)
from engine.config.explain import explain
from engine.config.files import check_callbacks, check_monitors, check_values
from engine.config.installed import base_config
from engine.config.recipe import Recipe, take_flag
from engine.config.sections import drop_sources, plain, plain_texts
from engine.training.data_facts import print_data_facts
from engine.training.from_slides import extract_first
from engine.training.initial_weights import frozen_random_parts
from engine.training.launchers import check_launcher, cluster_environment, use_launcher
from engine.training.links import links_of
from engine.training.requeue import job_id, run_of_job
from engine.training.run_config import RunConfigCallback
from engine.training.run_names import recipe_name, run_name
from engine.training.validation_plan import check_validation
from formats.weights.files import read_file, state_dict_of
from lightning_modules.rebuilding import LINKS, class_of
from lightning_modules.staged import StagedModule
from loggers.wandb_logger import WandbOptions
from structures import DataProblems, Problem

_EXACT = {"exit_on_error": False, "allow_abbrev": False}  # a flag cut short is a wrong flag
_STAGES = ("fit", "validate", "test", "predict")


class SegmilCLI(LightningCLI):
    """`train.py fit | validate | test | predict`.

    Args:
        args: the words of the command line.
        folder: run folder of a first stage; None for an ordinary run.
        command: the words that the user gave, if they differ from ``args``.
        signals: the callback that ends a training by a signal; None for a new one.
    """

    def __init__(
        self,
        args: list[str],
        folder: Path | None = None,
        command: Sequence[str] = (),
        signals: StopOnSignal | None = None,
    ) -> None:
        self._args, self._folder, self._command = args, folder, list(command or args)
        self._written: Any = None  # the configuration with the files of initial weights
        self._first_checkpoint: Path | None = None  # of a first stage that is to be ended
        self._requeued = False  # a job of Slurm that goes on after it was requeued
        self._signals = signals or StopOnSignal()
        self.failed: list[Problem] = []  # slides without features, which were not predicted
        defaults = {"default_config_files": [str(base_config())]} | _EXACT
        super().__init__(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunConfigCallback,
            save_config_kwargs={"overwrite": True, "command": ["train.py", *self._command]},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs=_EXACT | dict.fromkeys(self.subcommands(), defaults),
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return only the requested command: building the other parsers takes as long again."""
        every = LightningCLI.subcommands()
        asked = self._args[0] if self._args else ""
        return {asked: every[asked]} if asked in every else every

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name, optional sections, the checkpoint callback and the data's links."""
        parser.add_argument("--name", type=str, help="run name; default: the recipe's file name")
        parser.add_argument(
            "--runs_dir", type=Path, default=Path("runs"), help="parent of all runs"
        )
        parser.add_argument("--wandb", type=WandbOptions | None, default=None)
        parser.add_class_arguments(StandardCallbacks, "callbacks")
        parser.add_argument("--ema", type=EMAOptions | None, default=None)
        parser.add_argument("--early_stopping", type=EarlyStoppingOptions | None, default=None)
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        for fact, target in LINKS.items():
            parser.link_arguments(f"data.{fact}", f"model.{target}", apply_on="instantiate")

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Read every checkpoint without executing pickled code; keep no predictions in memory."""
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        for name, parser in self._subcommand_parsers.items():
            kept = {"return_predictions": False} if name == "predict" else {}  # they are written
            parser.set_defaults({"weights_only": True} | kept)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments; a wrong one raises a ValueError without printing usage text."""
        if self._args[0] in _STAGES:
            Recipe.of_words(self._args).check(trains=self._args[0] == "fit")
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise ValueError(explain(str(error), self._args)) from None
        command = self.config.subcommand
        config = self.config[command]
        if command != "predict" and getattr(class_of(config.model), "only_predicts", False):
            raise ValueError(
                f"{command}: {config.model.class_path} trains nothing; use "
                f"`python train.py predict` with this recipe"
            )
        check_values(config, LINKS, trains=command == "fit")
        plain_texts(config.trainer.callbacks)
        if command == "fit" and self._folder is None and not config.trainer.fast_dev_run:
            own = run_of_job(self._runs(config, command), ["train.py", *self._command])
            if own is not None:
                rank_zero_info(f"job {job_id()} continues {own}")
                config.ckpt_path, self._requeued = str(own), True
        if config.ckpt_path is None:
            return
        checkpoint = Path(str(config.ckpt_path))
        read_record(checkpoint)  # refuses a wrong file before anything is built
        goes_on = command == "fit" and interrupted_run(checkpoint) is not None
        if goes_on and first_stage_section(plain(config.model)) is not None:
            self._first_checkpoint, config.ckpt_path = checkpoint, None

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and the loggers before the trainer is built."""
        from loggers.run import build_loggers, next_run_dir

        config = self.config[self.subcommand]
        check_launcher(config.trainer)
        goes_on = self._continuation(config)
        if goes_on is not None:
            self.run_dir = goes_on.folder
        elif self._folder is not None:
            self.run_dir = self._folder
        else:
            runs = self._runs(config, str(self.subcommand))
            self.run_dir = next_run_dir(runs.parent, runs.name)
        config.trainer.logger = None
        step = None if goes_on is None else goes_on.step
        self._loggers = lambda: build_loggers(self.run_dir, config.wandb, step)
        failed = extract_first(config, self.run_dir, self._other_stage)
        if failed is not None:
            self.failed = failed
            self._set_seed()  # as if nothing came first

    def _other_stage(self, words: list[str], folder: Path) -> SegmilCLI:
        """Run another command in a folder of this run, and return it."""
        from loggers.run import finish_loggers

        other = SegmilCLI(words, folder, self._command, self._signals)
        finish_loggers(other.trainer.loggers)
        return other

    def report_failed(self) -> None:
        """Raise DataProblems if slides could not be predicted, now that the others are."""
        if self.failed and self.trainer.is_global_zero:  # type: ignore[attr-defined]
            raise DataProblems(self.failed)

    def _runs(self, config: Any, command: str) -> Path:
        """Return the folder of the runs of this name; a test's recipe has the training's name."""
        checkpoint = None if config.ckpt_path is None else Path(str(config.ckpt_path))
        recipe = config.name or recipe_name(Recipe.of_words(self._args).files)
        name = take_flag(self._args, "--name")[1]
        return Path(config.runs_dir) / (name or run_name(command, recipe, checkpoint))

    def _continuation(self, config: Any) -> Continuation | None:
        """Return the run to continue; a name or another parent folder asks for a new run."""
        named = not self._requeued and take_flag(self._args, "--name")[1] is not None
        if self.subcommand != "fit" or named or config.trainer.fast_dev_run:
            return None
        checkpoint = self._first_checkpoint or Path(str(config.ckpt_path))
        parent = None if self._requeued else take_flag(self._args, "--runs_dir")[1]
        if parent is not None and Path(parent).resolve() not in checkpoint.resolve().parents:
            return None
        goes_on = continuation(checkpoint) if checkpoint.is_file() else None
        if goes_on is not None and self._first_checkpoint is not None:
            return Continuation(goes_on.folder.parent, 0)
        if goes_on is not None and self._folder is not None:  # only in the run it is the first of
            return goes_on if goes_on.folder.resolve() == self._folder.resolve() else None
        return goes_on

    def _add_instantiators(self) -> None:
        """Build modules and data as their classes say.

        Lightning would write out the whole configuration before each, a quarter of a run's start,
        for `save_hyperparameters`; checkpoints hold the configuration as ``blueprint`` instead.
        """

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with our loggers; CSV comes first, its folder is the run folder."""
        self.config = self._written  # the file of the run names what its training started from
        config = self.config_init[self.subcommand].trainer
        use_launcher(config)
        if config.default_root_dir is None:  # Lightning takes a file of any other run from there
            config.default_root_dir = str(self.run_dir)
        own = config.callbacks or []
        own = own if isinstance(own, list) else [own]
        check_callbacks(own)
        self._add_callbacks(config, own)
        plugins = config.plugins or []
        plugins = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        processes = cluster_environment()
        if processes is not None and not any(isinstance(p, ClusterEnvironment) for p in plugins):
            plugins.append(processes)
        arguments = {**kwargs, "logger": self._loggers(), "plugins": plugins}  # type: ignore[no-untyped-call]
        try:
            trainer = super().instantiate_trainer(**arguments)
        except (TypeError, ModuleNotFoundError) as error:  # Lightning's, for one of its options
            raise ValueError(f"trainer: {error}; change that option") from error
        except MisconfigurationException as error:
            if re.search("accelerator|gpu|machine only has", str(error), re.IGNORECASE) is None:
                raise
            raise ValueError(
                f"trainer.accelerator {config.accelerator}, trainer.devices {config.devices}: "
                f"{str(error).rstrip('!.')}; leave both out to use what this machine has, or give "
                "--trainer.accelerator auto --trainer.devices 1"
            ) from error
        asked = str(config.precision)
        if asked in ("16", "16-mixed") and trainer.precision == "bf16-mixed":  # A443
            raise ValueError(
                f"trainer.precision {asked} needs a GPU; leave it out, or use bf16-mixed on a "
                "processor with bfloat16 units"
            )
        return trainer

    def _add_callbacks(self, config: Any, own: list[Any]) -> None:
        """Set the callbacks of the trainer's configuration: the user's, the recipe's and ours."""
        given = self.config_init[self.subcommand]
        config.callbacks = given.callbacks.build(own, config.enable_progress_bar)
        if config.enable_model_summary is not False:
            own_summary = any(isinstance(c, ModelSummary) for c in config.callbacks)
            config.callbacks += [] if own_summary else [ModelSize()]
        config.enable_model_summary = False  # Lightning's own
        if config.enable_progress_bar is None:  # Lightning would put in its own where ours is off
            config.enable_progress_bar = any(isinstance(c, ProgressBar) for c in config.callbacks)
        if given.wandb is not None:
            config.callbacks += [BestValues(), AlertOnError()]
        if self.subcommand != "fit":
            return
        if given.ema is not None:
            config.callbacks.insert(0, EMA(given.ema.decay, given.ema.warmup_steps))
        config.callbacks.append(self._signals)
        if given.early_stopping is not None:
            saving = self.config[self.subcommand].checkpoint
            stopping = StopEarly(given.early_stopping, saving.monitor, saving.mode)
            config.callbacks.append(stopping)

    def instantiate_classes(self) -> None:
        """Store the resolved configuration in the module, which saves it in its checkpoints.

        With a checkpoint, no files of initial weights are read: it has all weights.
        """
        self._written = self.config
        if self.config[self.subcommand].ckpt_path is not None:
            self.config = copy.deepcopy(self.config)
            drop_sources(self.config[self.subcommand].model)
        super().instantiate_classes()  # type: ignore[no-untyped-call]
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            monitors: Any = self.trainer
            check_monitors(monitors.callbacks, getattr(self.model, "metric_names", ()))
            self._check_weights(config)
        self.model.blueprint = {
            "model": plain(config.model),
            "data": plain(config.data),
            "links": links_of(plain(config.model), self.datamodule),
        }

    def _check_weights(self, config: Any) -> None:
        """Refuse to train a backbone of which parts are frozen at random values.

        Where another stage comes first, its run checks what it trains.
        """
        if first_stage_section(plain(config.model)) is not None:
            return
        fault = frozen_random_parts(getattr(self.model, "model", self.model), plain(config.model))
        if fault is None or config.ckpt_path is not None:
            return
        if not config.trainer.fast_dev_run:
            raise ValueError(fault)
        rank_zero_warn(fault)

    def before_fit(self) -> None:
        """Say what the data are and what validates; train the first of two stages."""
        if self._folder is None:
            print_data_facts(self.datamodule)
        config, module = plain(self.config[self.subcommand]), self.model
        trainer: Any = self.trainer
        check_validation(trainer, self.datamodule, resumes=config["ckpt_path"] is not None)
        section = first_stage_section(config["model"])
        if section is None or config["ckpt_path"] or not isinstance(module, StagedModule):
            return
        module.receive(self._first_stage(config, section, module.first_stage_weights))
        self._set_seed()  # as for a resumed run, in which nothing comes first

    def _first_stage(
        self, config: dict[str, Any], section: dict[str, Any], wanted: str
    ) -> dict[str, Tensor]:
        """Run the first stage in a subfolder of the run and return the weights of its model."""
        from loggers.run import is_first_process, stay_inside

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
            first = self._other_stage(arguments, self.run_dir / FOLDER)
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
