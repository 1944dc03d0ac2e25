"""What the commands print, seen as a user sees it: each is a process of its own."""

import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from engine.training.console import calm_console

ROOT = Path(__file__).resolve().parents[3]
RECIPE = "configs/quickstart/abmil.yaml"


def command(*words):
    """Run ``train.py`` and return what it wrote to stdout and to stderr."""
    done = subprocess.run(
        [sys.executable, "train.py", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Return stdout and stderr of `fit`, `test` and `predict`, and the folder of the runs."""
    runs = tmp_path_factory.mktemp("runs")
    checkpoint = runs / "abmil" / "version_0" / "checkpoints" / "best.ckpt"
    few = [
        "--trainer.max_epochs", 3, "--data.test_bags", 20, "--config", "configs/_base/wandb.yaml",
        "--callbacks.attention", "false", "--callbacks.curves", "false",
    ]  # fmt: skip
    later = ["--ckpt_path", checkpoint, "--runs_dir", runs]
    named = ["--name", "abmil", "--runs_dir", runs]
    fitted = command("fit", "--config", RECIPE, *few, *named)
    return {
        "fit": fitted,
        "test": command("test", *later),
        "predict": command("predict", *later),
    }, runs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fit", "test", "predict"])
def test_nothing_is_advertised_deprecated_or_about_hardware_that_is_not_there(printed, name):
    text = "".join(printed[0][name])
    for unwanted in ("Tip", "litlogger", "TPU", "FLOPs", "eprecat", "Be aware that", "estimate"):
        assert unwanted not in text
    assert "GPU available" in text  # other messages of Lightning are there


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("fit", "abmil/version_0"),
        ("test", "abmil_test/version_0/predictions"),
        ("predict", "predict/version_0/predictions"),
    ],
)
def test_the_last_line_says_where_the_results_are(printed, name, folder):
    (out, err), runs = printed[0][name], printed[1]
    assert out.splitlines()[-1] == f"written to {runs / folder}"
    assert "written to" not in err
    wanted = "checkpoints" if name == "fit" else "bags.csv"
    assert (runs / folder / wanted).exists()


@pytest.mark.slow
def test_wandb_says_one_thing_how_to_send_a_run_that_was_logged_offline(printed):
    text, run = "".join(printed[0]["fit"]), printed[1] / "abmil" / "version_0"
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert f"`wandb sync {folder}`" in text
    assert "wandb:" not in text


@pytest.mark.slow
def test_a_training_tells_the_size_of_its_model_and_the_time_left(printed):
    out, err = printed[0]["fit"]
    assert "model: ABMIL, 25,025 parameters\n" in err
    assert re.search(r"^epoch 1/3, step 25: .*bags/s [\d.]+, left 0:\d\d:\d\d$", out, re.MULTILINE)
    assert re.search(r"^epoch 3/3, step 75: .*bags/s [\d.]+$", out, re.MULTILINE)


@pytest.mark.parametrize("trains", [True, False])
def test_warnings_that_matter_stay_and_the_console_is_as_before_afterwards(caplog, trains):
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    advice = "Be aware that when using `ckpt_path`, callbacks used to create"
    namespace = {"__name__": "pytorch_lightning.trainer.call", "warnings": warnings}
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with calm_console(trains=trains):
            warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated, use", stacklevel=1)
            exec(f"warnings.warn({advice!r}, stacklevel=1)", namespace)
            log.warning("💡 Tip: buy this")
            log.warning("TPU available: True, using: 0 TPU cores")
        log.warning("💡 Tip: buy this")
    # The first names a module of ours, not Lightning's, so it stays.
    assert [str(w.message)[:8] for w in shown] == ["`isinsta", "Be aware"][: 1 + trains]
    assert [r.getMessage()[:5] for r in caplog.records] == ["TPU a", "💡 Tip"]
