"""A user's own package that has the name of one of ours is named, with the remedy."""

import os
import subprocess
import sys

import pytest

from segmil.own_packages import HOME, PACKAGES
from tests.support.layers import FOLDERS

CHECK = "from segmil.own_packages import check_packages; check_packages(); sys.exit('ours')"


def load_in(folder, code="import segmil; segmil.load('x.ckpt')", path=HOME):
    """Run Python as a user does in a folder of their own; return the last line of the error."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{path}"},
    )  # fmt: skip
    return done.stderr.strip().splitlines()[-1]


def test_all_our_packages_are_checked():
    assert set(PACKAGES) == set(FOLDERS) - {"segmil"}


@pytest.mark.parametrize("name", ["models", "evaluation", "engine"])
@pytest.mark.parametrize("kind", ["package", "module"])
def test_a_package_that_hides_ours(name, kind, tmp_path):
    file = tmp_path / name / "__init__.py" if kind == "package" else tmp_path / f"{name}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    message = load_in(tmp_path)
    assert f"segmil needs its own package '{name}' in {HOME / name}" in message
    assert f"Python finds {file.parent if kind == 'package' else file}" in message
    remedy = f"sys.path.insert(0, {str(HOME)!r})"
    assert remedy in message
    found = load_in(tmp_path, f"import sys; {remedy}; {CHECK}")
    assert found == "ours"


def test_a_command_of_an_installation_says_so_in_one_line(tmp_path):
    (tmp_path / "models.py").write_text("")
    message = load_in(tmp_path, "from segmil.scripts import train; train()")
    assert message.startswith("error: segmil needs its own package 'models'")


def test_a_module_that_is_loaded_already(tmp_path):
    code = "import sys, types; sys.modules['models'] = types.ModuleType('models'); import segmil; "
    message = load_in(tmp_path, code + "segmil.load('x.ckpt')")
    assert message.startswith("ImportError: segmil needs its own package 'models'")
    assert "Python finds none" in message


def test_a_folder_that_is_no_package_hides_nothing(tmp_path):
    (tmp_path / "models").mkdir()  # ours comes later in the path and is found all the same
    assert load_in(tmp_path, f"import sys; {CHECK}") == "ours"
