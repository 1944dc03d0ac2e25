"""What a person who waits does not have to wait for: libraries that nothing has used yet."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from structures.lean_import import without

ROOT = Path(__file__).resolve().parents[2]
SEG = ["--config", "configs/quickstart/mask_rcnn.yaml"]
NEVER = ("wandb", "albumentations", "sklearn", "pandas", "matplotlib", "timm", "h5py", "hotcoco")


def loaded_after(*commands, names, program="train"):
    """Run commands of a program in one new process; return which of ``names`` are loaded."""
    code = (
        f"import contextlib, io, sys, {program} as train\n"
        f"for command in {list(commands)!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as shown:\n"
        "        code = train.main(command)\n"
        "    assert code == 0 and (shown.getvalue() or 'fit' in command), (code, command)\n"
        f"print('LOADED', *sorted(set({names!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rsplit("LOADED", 1)[1].split()


def test_help_and_a_parsed_recipe_load_nothing_that_only_training_needs():
    commands = [["fit", "--help"], ["fit", *SEG, "--print_config"]]
    names = (*NEVER, "pytorch_lightning")
    assert loaded_after(*commands, names=names) == ["pytorch_lightning"]


@pytest.mark.slow
def test_training_without_wandb_and_augmentation_loads_neither(tmp_path):
    step = ["--trainer.fast_dev_run", "true", "--runs_dir", str(tmp_path)]
    step += ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    names = ("wandb", "albumentations", "pandas", "timm")
    assert loaded_after(["fit", *SEG, *step], names=names) == ["timm"]


@pytest.mark.slow
def test_data_are_checked_without_any_of_them():
    command = ["check-data", "--config", "configs/quickstart/abmil.yaml"]
    found = loaded_after(command, names=NEVER, program="evaluate")
    assert found == ["sklearn"]  # which has the digits


def test_a_package_is_back_after_the_block():
    with without("wave", "pytest"):
        with pytest.raises(ModuleNotFoundError, match="wave"):
            import wave
        assert find_spec("wave") is None  # what libraries ask that import nothing
        import pytest as loaded  # already there
    import wave

    assert loaded is pytest
    assert wave.__name__ == "wave"
    assert not any(type(finder).__name__ == "_Absent" for finder in sys.meta_path)


def test_the_version_of_a_package_is_hidden_as_well():
    """torchmetrics asks for the distribution, not for the module."""
    from importlib.metadata import PackageNotFoundError, version

    with without("matplotlib"):
        with pytest.raises(PackageNotFoundError):
            version("matplotlib")
        assert version("torchmetrics")
    assert version("matplotlib")
