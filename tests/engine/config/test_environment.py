"""Scripts started by a Python without the packages say what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import environment
from engine.config.environment import environment_fault

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    "words", [["train.py", "fit"], ["evaluate.py", "compare", "--predictions", "a", "b"],
              ["quickstart.py"]], ids=lambda words: words[0]
)  # fmt: skip
def test_outside_the_environment(words, tmp_path):
    command = [sys.executable, "-S", "-B", str(ROOT / words[0]), *words[1:]]  # -S: no packages
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: this Python ({sys.executable}")
    assert "lacks torch, pytorch_lightning, jsonargparse" in line
    assert f"run `make setup` in {ROOT} once, then `source .venv/bin/activate`" in line
    assert not list(tmp_path.iterdir())


def test_help_needs_no_package():
    command = [sys.executable, "-S", "-B", str(ROOT / "evaluate.py"), "coco", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--annotations" in done.stdout


def test_an_old_python_and_the_right_one(monkeypatch):
    assert environment_fault() is None
    monkeypatch.setattr(environment, "_OLDEST", (4, 0))
    assert "is older than" in environment_fault(packages=False)
