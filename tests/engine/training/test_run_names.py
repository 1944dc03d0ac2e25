"""Names of runs that the user has not named."""

from pathlib import Path

import pytest

from engine.training.run_names import recipe_name, run_name


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        ("runs/abmil/version_3/checkpoints/best.ckpt", "abmil_test"),
        ("runs/mhim/version_0/first_stage/checkpoints/best.ckpt", "mhim_test"),
        ("runs/abmil_test/version_0/best.ckpt", "abmil_test"),
        ("downloads/best.ckpt", "recipe_test"),
        (None, "recipe_test"),
    ],
)
def test_a_test_has_a_folder_of_its_own(checkpoint, name):
    assert run_name("test", "recipe", checkpoint and Path(checkpoint)) == name


@pytest.mark.parametrize("command", ["fit", "validate", "predict"])
def test_other_commands_are_named_after_the_recipe(command):
    path = Path("runs/abmil/version_3/checkpoints/best.ckpt")
    assert run_name(command, "recipe", path) == "recipe"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["configs/mil/abmil.yaml", "runs/mhim/version_0/config.yaml"], "abmil"),
        (["runs/abmil/version_3/config.yaml"], "abmil"),
        (["runs/mhim/version_0/first_stage/config.yaml"], "mhim"),
        (["runs/abmil/version_3/other.yaml"], "other"),
        (["mine/config.yaml"], "config"),
        ([], "run"),
    ],
)
def test_the_copy_of_a_recipe_in_a_run_has_the_name_of_the_run(files, name):
    assert recipe_name([Path(file) for file in files]) == name
