"""The tool that changes formulas: what it finds, and that it names what catches a change."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import perturb
from tests.perturb_sites import changes, chosen

SOURCE = '''
"""a - b in a docstring."""
WIDTH: int = 3 - 1

class Model:
    def __init__(self, k: int = 2 * 3):
        if k - 1 < 0:
            raise ValueError(f"{k - 1} is 2 * too small")
        self.widths = [k] * 2

    def forward(self, x, y):
        z = x.sum(1) - 2.0 * y
        z += x[:, 0]
        assert z.shape[0] == 1 + 1
        return torch.cat([z, y.softmax(dim=-1)], 1) @ x.T
'''


def found(kind):
    return [f"{c.before}  ->  {c.after}" for c in changes(SOURCE) if c.kind == kind]


def test_signs_factors_and_axes_of_formulas_are_found():
    assert found("sign") == [
        "3 - 1  ->  3 + 1",
        "2.0 * y  ->  -(2.0 * y)",
        "x.sum(1) - 2.0 * y  ->  x.sum(1) + 2.0 * y",
        "z += x[:, 0]  ->  z -= x[:, 0]",
        "torch.cat([z, y.softmax(dim=-1)], 1) @ x.T  ->  "
        "-(torch.cat([z, y.softmax(dim=-1)], 1) @ x.T)",
        "y.softmax(dim=-1)  ->  (-y).softmax(dim=-1)",
    ]
    assert found("axis") == [
        "1  ->  0",
        "-1  ->  -2",
        "1  ->  0",
        "x.T  ->  x",
    ]
    assert "2.0 * y  ->  2.0 / y" in found("factor")
    assert "2.0  ->  4.0" in found("factor")
    assert "y.softmax(dim=-1)  ->  (2 * y).softmax(dim=-1)" in found("factor")


def test_checks_messages_defaults_and_documents_are_left_alone():
    lines = {c.line for c in changes(SOURCE)}
    rows = SOURCE.splitlines()
    touched = {rows[line - 1].strip() for line in lines}
    assert not any(row.startswith(('"""', "if", "raise", "def", "assert")) for row in touched)
    assert not any("widths" in row for row in touched)


def test_a_change_is_one_change():
    original = ast.unparse(ast.parse(SOURCE)).splitlines()
    for change in changes(SOURCE):
        text = ast.unparse(change.tree).splitlines()
        differ = [(a, b) for a, b in zip(original, text, strict=True) if a != b]
        assert len(differ) == 1, change


def test_the_choice_is_one_of_each_kind_from_the_formulas_and_always_the_same():
    picked = chosen(changes(SOURCE))
    assert [c.kind for c in picked] == ["sign", "factor", "axis"]
    assert all(c.function == "forward" for c in picked)
    assert [str(c) for c in picked] == [str(c) for c in chosen(changes(SOURCE))]


def test_every_models_file_and_what_only_they_use_are_looked_at():
    files = perturb.model_files()
    assert "models/mil/abmil.py" in files
    assert "models/ops/attention/nystrom.py" in files
    assert "models/ops/bags/ragged_order.py" not in files  # segmentation uses it, too
    assert "models/ops/boxes/roi_align.py" not in files  # of segmentation
    assert "models/mil/protocol.py" not in files
    assert perturb.tests_of("models/mil/abmil.py")[0] == "tests/models/mil/test_abmil.py"
    assert {"abmil", "abmil_features", "aem"} <= set(perturb.recipes_of("models/mil/abmil.py"))


FILE = "models/losses/smooth_svm.py"  # used by few recipes, and its tests take a moment
TWICE = f"""
import runpy, sys
sys.argv[1:] = [{FILE!r}]
try:
    runpy.run_module("tests.perturb", run_name="__main__")
except SystemExit as end:
    print("EXIT", end.code, flush=True)
from tests import perturb
perturb.tests_of = lambda file: ["tests/formats/weights/test_archive.py"]
perturb.recipes_of = lambda file: []
print("EXIT", perturb.main([{FILE!r}]))
"""


@pytest.fixture(scope="module")
def told():
    """Return what the tool says of a file: with the file's tests, and with tests of another one.

    In a process of its own: the tool forks, which a process with threads must not. It is the same
    process for both, as most of their time is that of importing libraries.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TWICE],
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seeing, code, rest = done.stdout.partition("EXIT 0\n")
    assert code, done.stdout + done.stderr
    return seeing.splitlines(), rest.splitlines()


@pytest.mark.slow
def test_changes_are_caught(told):
    lines, _ = told
    assert [line.split(": ")[1] for line in lines[:-1]] == ["sign", "factor", "axis"]
    assert all("[tests/models/losses/test_smooth_svm.py::" in line for line in lines[:-1])
    assert lines[-1] == "no survivor"


@pytest.mark.slow
def test_a_change_that_nothing_sees_survives(told):
    _, lines = told
    assert lines[-1] == "EXIT 1"
    assert "\n".join(lines).count("SURVIVED") == 3
