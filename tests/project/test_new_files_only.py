"""A method, a callback, a datamodule and a command are new files; nothing that exists is edited.

All are written into a copy of the tree and used there through train.py and evaluate.py.
"""

import csv
import json
import re

import numpy as np
import pytest

import evaluate
from tests.support.copied_tree import copy_tree, method_files, run_python

pytestmark = pytest.mark.slow  # half a minute

CALLBACK = '''
"""A note of every validation and every prediction."""

import pytorch_lightning as pl

from loggers.run_files import run_folder


class Notes(pl.Callback):
    """Write a line to ``notes.txt`` for every validation.

    Args:
        text: of the line.
    """

    entry = "notes"

    def __init__(self, text: str = "validated") -> None:
        self.text = text

    def _note(self, trainer: pl.Trainer) -> None:
        path = run_folder(trainer, "notes.txt")
        if path is not None:
            with path.open("a") as stream:
                stream.write(f"{self.text} at step {trainer.global_step}\\n")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line."""
        self._note(trainer)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line."""
        self._note(trainer)
'''
DATAMODULE = '''
"""Bags in a text file: a row an instance, with the bag, its label and the features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.mil.base import MILDataModule
from datamodules.mil.splits import BagSplit
from structures import BagBatch, MILTask


class TextBagsDataModule(MILDataModule):
    """The bags of one text file, to test and to predict.

    Args:
        file: the text file.
        class_names: the classes by label.
        task: what the labels mean.
        **shared: the arguments of ``MILDataModule``.
    """

    path_argument = "file"

    def __init__(
        self,
        file: Path,
        class_names: Sequence[str] | None = None,
        task: MILTask | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        rows = torch.from_numpy(np.loadtxt(file, ndmin=2, dtype=np.float32))
        bags, sizes = rows[:, 0].unique_consecutive(return_counts=True)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        self._bags = BagBatch(
            features=rows[:, 2:].contiguous(),
            offsets=offsets,
            labels=rows[offsets[:-1], 1].long(),
            index=torch.arange(len(bags)),
            bag_ids=tuple(f"text_{int(bag)}" for bag in bags),
        )
        self.in_features, self.num_classes = rows.shape[1] - 2, 2
        self.class_names = list(class_names or ["negative", "positive"])
        self.task = task or "binary"

    @classmethod
    def section_for(
        cls, path: Path, record: Mapping[str, Any], folder: Path | None = None
    ) -> dict[str, Any] | None:
        """Return the section for a file that ends in ``.bags``; see the base class."""
        known = cls.arguments_like(record)
        if known is None or path.suffix != ".bags":
            return None
        return cls.section(known | {"file": str(path)})

    def source(self, split: BagSplit) -> BagBatch:
        """Return all bags."""
        return self._bags

    def numbers(self, split: BagSplit) -> Sequence[int]:
        """Return all numbers, except in training."""
        return range(len(self._bags)) if split in ("test", "predict") else ()

    def evaluation_arguments(self) -> dict[str, Any]:
        """Return the batch size."""
        return {"eval_batch_size": self.eval_batch_size}
'''
COMMAND = '''
"""`evaluate.py count-rows`: how many rows a text file has."""

import argparse
from pathlib import Path
from typing import Any

SUMMARY = "count the rows of a text file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("file", type=Path, help="the text file")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Count the rows and print their number."""
    rows = len(args.file.read_text().splitlines())
    print(f"{args.file}: {rows} rows")
    return {"rows": rows}
'''
NEW_FILES = method_files() | {
    "callbacks/mil/notes.py": CALLBACK.lstrip(),
    "datamodules/mil/text_bags.py": DATAMODULE.lstrip(),
    "commands/count_rows.py": COMMAND.lstrip(),
}
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the tree with the new files and a file of three bags."""
    folder = tmp_path_factory.mktemp("tree")
    copy_tree(folder, NEW_FILES)
    features = np.random.default_rng(0).random((6, 64))
    columns = [[0, 0, 1, 2, 2, 2], [1, 1, 0, 1, 1, 1]]
    np.savetxt(folder / "three.bags", np.column_stack([*columns, features]))
    return folder


@pytest.fixture(scope="module")
def trained(tree):
    """Return the folder of a run of the new method with the new callback."""
    done = run_python(
        tree, "train.py", "fit", "--config", "configs/mil/mean_pooling.yaml", *QUIET,
        "--trainer.max_steps", "2", "--data.train_bags", "16", "--data.val_bags", "8",
        "--trainer.val_check_interval", "1", "--callbacks.notes.text", "seen",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return tree / "runs" / "mean_pooling" / "version_0"


def test_a_method_trains_from_its_recipe(trained):
    assert (trained / "checkpoints" / "best.ckpt").is_file()
    assert "models.mil.mean_pooling.MeanPooling" in (trained / "config.yaml").read_text()


def test_a_callback_is_a_standard_one_with_flags_of_its_own(trained):
    assert (trained / "notes.txt").read_text() == "seen at step 1\nseen at step 2\n"


def test_a_datamodule_reads_its_suffix_in_predict_and_a_flag_switches_the_callback_off(
    tree, trained
):
    words = ["--ckpt_path", trained / "checkpoints" / "best.ckpt", "--data", "three.bags"]
    done = run_python(
        tree, "train.py", "predict", *words, *QUIET, "--callbacks.notes", "false"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tree / "runs" / "predict" / "version_0"
    with (run / "predictions" / "bags.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["bag_id"], row["label"]) for row in rows] == [
        ("text_0", "1"), ("text_1", "0"), ("text_2", "1"),
    ]  # fmt: skip
    assert not (run / "notes.txt").exists()


def test_a_datamodule_reads_its_suffix_in_evaluation(tree, trained):
    words = ["--ckpt", trained / "checkpoints" / "best.ckpt", "--data", "three.bags"]
    done = run_python(tree, "evaluate.py", "mil", *words, "--draws", 5, "--out", "scores.json")
    assert done.returncode == 0, done.stderr
    assert {row["bag_id"] for row in json.loads((tree / "scores.json").read_text())["bags"]} == {
        "text_0", "text_1", "text_2",
    }  # fmt: skip


@pytest.mark.skipif(
    not hasattr(evaluate, "command_modules"), reason="evaluate.py lists its commands by hand"
)
def test_a_command_is_found(tree):
    done = run_python(tree, "evaluate.py", "count-rows", "three.bags")
    assert (done.returncode, done.stdout) == (0, "three.bags: 6 rows\n"), done.stderr
    shown = run_python(tree, "evaluate.py", "--help").stdout
    assert re.search(r"count-rows +count the rows of a text file", shown)
