"""Names of runs that the user has not named."""

from pathlib import Path

import pytest

from engine.training.run_names import run_name


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
