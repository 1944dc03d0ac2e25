"""What a command leaves out of the console, and what it says at its end."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loaded only where a command needs them
    from engine.training.cli import SegmilCLI

# Starts of Lightning's messages that say nothing about the run: advertisements, hardware that is
# not there, how it counts steps.
_UNWANTED = (
    "💡 Tip: ",
    "TPU available: False",
    "Loading `train_dataloader` to estimate number of stepping batches",
    "[rank: ",  # received SIGTERM, which is also how we end a training after Ctrl-C
)
_LOGGERS = (
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.rank_zero",
    "pytorch_lightning.trainer.connectors.signal_connector",
)
# Lightning's warnings about its own code: start of the message, module that it names.
_DEPRECATED = (
    "`isinstance(treespec, LeafSpec)` is deprecated",
    "pytorch_lightning.utilities._pytree",
)
_CALLBACKS = "Be aware that when using `ckpt_path`, callbacks", "pytorch_lightning.trainer.call"


@contextmanager
def calm_console(*, trains: bool) -> Iterator[None]:
    """Leave certain messages of Lightning out of the console while the block runs.

    Args:
        trains: whether the block may train. Where it does not, the advice to provide the callbacks
            that a checkpoint was written with is left out too: only a training can go on with them.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with warnings.catch_warnings():
        for start, module in [_DEPRECATED] if trains else [_DEPRECATED, _CALLBACKS]:
            warnings.filterwarnings("ignore", re.escape(start), module=re.escape(module))
        for logger in loggers:
            logger.addFilter(_is_wanted)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_UNWANTED)


def print_where(cli: SegmilCLI) -> None:
    """Print what `predict` found in images, and where: the folder of its files, else the run's."""
    from callbacks.results.predictions import PredictionWriter
    from callbacks.wsi.feature_files import FeatureFiles

    trainer = cli.trainer
    if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
        return
    folder = cli.run_dir
    if cli.subcommand in ("test", "predict"):
        writers = [c for c in trainer.callbacks if isinstance(c, PredictionWriter)]  # type: ignore[attr-defined]
        places = [Path(w.output_dir or cli.run_dir / "predictions") for w in writers]
        folder = next((place for place in places if place.is_dir()), folder)
        features = [c.folder for c in trainer.callbacks if isinstance(c, FeatureFiles)]  # type: ignore[attr-defined]
        folder = next((place for place in features if place is not None), folder)
        sys.stdout.write("".join(f"{w.summary}\n" for w in writers if w.summary))
    if folder.is_dir():
        sys.stdout.write(f"written to {folder}\n")
