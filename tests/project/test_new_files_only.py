"""A model, a callback, a datamodule and a command are new files; nothing that exists is edited.

The examples of CONTRIBUTING.md are written into a copy of the tree and used there through train.py
and evaluate.py.
"""

import csv
import json
import re

import numpy as np
import pytest

from tests.support.copied_tree import copy_tree, run_programs, walk_through

pytestmark = pytest.mark.slow  # half a minute

FILES = walk_through()
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a copy of the tree with the new files and a file of three bags."""
    folder = tmp_path_factory.mktemp("tree")
    copy_tree(folder, FILES)
    features = np.random.default_rng(0).random((6, 64))
    columns = [[0, 0, 1, 2, 2, 2], [1, 1, 0, 1, 1, 1]]
    np.savetxt(folder / "three.bags", np.column_stack([*columns, features]))
    return folder


BEST = "runs/mean_pooling/version_0/checkpoints/best.ckpt"
SEG_TESTS = [f"tests/models/seg/test_{name}.py" for name in ("components", "every_model")]
COMMANDS = {
    "fit": [
        "train", "fit", "--config", "configs/mil/mean_pooling.yaml", *QUIET,
        "--trainer.max_steps", "2", "--data.train_bags", "16", "--data.val_bags", "8",
        "--trainer.val_check_interval", "1", "--callbacks.notes.text", "seen",
    ],
    "predict": [
        "train", "predict", "--ckpt_path", BEST, "--data", "three.bags", *QUIET,
        "--callbacks.notes", "false",
    ],
    "mil": [
        "evaluate", "mil", "--ckpt", BEST, "--data", "three.bags", "--draws", "5",
        "--out", "scores.json",
    ],
    "count-rows": ["evaluate", "count-rows", "three.bags"],
    "help": ["evaluate", "--help"],
    "fit a segmentor": [
        "train", "fit", "--config", "configs/seg/components.yaml", *QUIET,
        "--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--data.size", "64",
        "--data.val_scenes", "2", "--callbacks.notes", "false",
    ],
    "tests": ["pytest", "-q", "-k", "components or Components", *SEG_TESTS],
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tree):
    """Return what became of each command, by name."""
    return dict(zip(COMMANDS, run_programs(tree, COMMANDS.values()), strict=True))


@pytest.fixture(scope="module")
def trained(tree, done):
    """Return the folder of a run of the new method with the new callback."""
    assert done["fit"].returncode == 0, done["fit"].stderr
    return tree / "runs" / "mean_pooling" / "version_0"


def test_the_guide_has_an_example_of_each_kind():
    folders = [path.partition("/")[0] for path in FILES]
    model = ["models", "configs", "tests"]
    assert folders == [*model, *model, "callbacks", "datamodules", "commands"]


def test_a_method_trains_from_its_recipe(trained):
    assert (trained / "checkpoints" / "best.ckpt").is_file()
    assert "models.mil.mean_pooling.MeanPooling" in (trained / "config.yaml").read_text()


def test_a_segmentation_model_trains_and_is_found_by_the_tests_of_all_models(tree, done):
    assert done["fit a segmentor"].returncode == 0, done["fit a segmentor"].stderr
    last = tree / "runs" / "components" / "version_0" / "checkpoints" / "last.ckpt"
    assert last.is_file()
    assert done["tests"].returncode == 0, done["tests"].stdout
    assert done["tests"].stdout.splitlines()[0].split()[0] == "." * 7, done["tests"].stdout


def test_a_callback_is_a_standard_one_with_flags_of_its_own(trained):
    assert (trained / "notes.txt").read_text() == "seen at step 1\nseen at step 2\n"


def test_a_datamodule_reads_its_suffix_in_predict_and_a_flag_switches_the_callback_off(tree, done):
    assert done["predict"].returncode == 0, done["predict"].stderr
    run = tree / "runs" / "predict" / "version_0"
    with (run / "predictions" / "bags.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["bag_id"], row["label"]) for row in rows] == [
        ("text_0", "1"), ("text_1", "0"), ("text_2", "1"),
    ]  # fmt: skip
    assert not (run / "notes.txt").exists()


def test_a_datamodule_reads_its_suffix_in_evaluation(tree, done):
    assert done["mil"].returncode == 0, done["mil"].stderr
    assert {row["bag_id"] for row in json.loads((tree / "scores.json").read_text())["bags"]} == {
        "text_0", "text_1", "text_2",
    }  # fmt: skip


def test_a_command_is_found(done):
    counted = done["count-rows"]
    assert (counted.returncode, counted.stdout) == (0, "three.bags: 6 rows\n"), counted.stderr
    assert re.search(r"count-rows +count the rows of a text file", done["help"].stdout)
