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

class Learner:
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


def test_every_learners_file_and_what_only_they_use_are_looked_at():
    files = perturb.learner_files()
    assert "models/mil/abmil.py" in files
    assert "models/ops/nystrom.py" in files
    assert "models/ops/ragged_order.py" not in files  # segmentation uses it, too
    assert "models/ops/roi_align.py" not in files  # of segmentation
    assert "models/mil/protocol.py" not in files
    assert perturb.tests_of("models/mil/abmil.py")[0] == "tests/models/mil/test_abmil.py"
    assert {"abmil", "abmil_features", "aem"} <= set(perturb.recipes_of("models/mil/abmil.py"))


def perturbed(*command):
    """Run the tool in a process of its own: it forks, which a process with threads must not."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_changes_are_caught():
    done = perturbed("-m", "tests.perturb", "models/ops/mean_probability.py")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(": ")[1] for line in lines[:-1]] == ["sign", "factor", "axis"]
    assert lines[-1] == "no survivor"


@pytest.mark.slow
def test_a_change_that_nothing_sees_survives():
    blind = """
import sys
from tests import perturb
perturb.tests_of = lambda file: ["tests/structures/test_transferable.py"]
perturb.recipes_of = lambda file: []
sys.exit(perturb.main(["models/mil/abmil.py"]))
"""
    done = perturbed("-c", blind)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("SURVIVED") == 3
