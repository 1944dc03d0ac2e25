"""What a person who waits does not have to wait for: libraries that nothing has used yet."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEG = ["--config", "configs/quickstart/mask_rcnn.yaml"]
NEVER = ("wandb", "albumentations", "sklearn", "timm", "h5py", "hotcoco")

STEP = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
STAGES = {
    "parsed": ("train", [["fit", "--help"], ["fit", *SEG, "--print_config"]]),
    "checked": ("evaluate", [["check-data", "--config", "configs/quickstart/abmil.yaml"]]),
    "trained": ("train", [["fit", *SEG, *STEP]]),
}
STAGE = """
import contextlib, io, sys, {program} as program
for command in {commands!r}:
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        code = program.main(command)
    assert code == 0 and (shown.getvalue() or "--trainer.fast_dev_run" in command), (code, command)
print("LOADED", {stage!r}, *sorted(set({names!r}) & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Return the libraries of NEVER and Lightning that are loaded after each stage.

    The stages follow each other in one new process, so that each has what those before it loaded.
    """
    runs, names = (
        ["--runs_dir", str(tmp_path_factory.mktemp("runs"))],
        (*NEVER, "pytorch_lightning"),
    )
    code = ""
    for stage, (program, commands) in STAGES.items():
        given = [[*c, *runs] if "--trainer.fast_dev_run" in c else c for c in commands]
        code += STAGE.format(program=program, commands=given, stage=stage, names=names)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("LOADED")]
    return {stage: set(found) for stage, *found in rows}


@pytest.mark.slow
def test_help_and_a_parsed_recipe_load_nothing_that_only_training_needs(loaded):
    assert loaded["parsed"] == {"pytorch_lightning"}


@pytest.mark.slow
def test_data_are_checked_without_any_of_them(loaded):
    assert loaded["checked"] - loaded["parsed"] == {"sklearn"}  # which has the digits


@pytest.mark.slow
def test_training_without_wandb_and_augmentation_loads_neither(loaded):
    assert not loaded["trained"] & {"wandb", "albumentations"}
    assert "timm" in loaded["trained"] - loaded["checked"]
