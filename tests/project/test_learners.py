"""A learner is three files and a line in docs/METHODS.md that the recipes themselves can check."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.layers import FOLDERS
from tests.support.methods_table import DOCUMENT, count_of, file_of, rows, table_of
from tests.support.mil_recipes import NAMES, RECIPES

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = {
    "python": ("models/mil/{}.py", "tests/models/mil/test_{}.py"),
    "yaml": ("configs/mil/{}.yaml",),
}


def example():
    """Return the files of the worked example of docs/METHODS.md, by path."""
    text = DOCUMENT.read_text().partition("## Adding a method")[2]
    files = {}
    for language, paths in EXAMPLE.items():
        blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
        files |= dict(zip([p.format("mean_pooling") for p in paths], blocks, strict=True))
    return files


def test_the_table_lists_every_recipe_with_its_file_and_parameters():
    table = table_of(DOCUMENT.read_text())
    for name in NAMES:
        recipe = f"`configs/mil/{name}.yaml`"
        listed = [row for row in table if recipe in row]
        assert len(listed) == 1, f"{recipe}: run `python -m tests.support.methods_table --write`"
        assert f"| `{file_of(name)}` |" in listed[0]
        assert f"{recipe} {count_of(name)}" in listed[0]
    assert count_of(NAMES[0]) == "78 209"  # of the table that tests/configs checks


def test_every_learner_has_a_test_of_its_own_name():
    for name in NAMES:
        file = Path(file_of(name))
        assert (ROOT / "tests" / file.parent / f"test_{file.stem}.py").is_file(), name


def test_rows_keep_what_the_document_says():
    found = list(rows())
    assert sum(row.count("configs/mil/") for row in found) == len(RECIPES)
    assert all(row.count(" | ") == 4 for row in found)


@pytest.mark.slow
def test_a_learner_of_three_files_is_found_by_every_test_of_learners(tmp_path):
    for folder in (*FOLDERS, "tests", "configs", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for script in [*ROOT.glob("*.py"), ROOT / "pyproject.toml", ROOT / "README.md"]:
        shutil.copy(script, tmp_path)
    written = example()
    for path, content in written.items():
        assert not (ROOT / path).exists()
        (tmp_path / path).write_text(content)
    assert len(written) == 3
    chosen = ["tests/models/mil/test_mean_pooling.py", "tests/models/mil/test_every_learner.py"]
    chosen += ["tests/models/mil/test_every_learner_learns.py", "tests/configs/test_configs.py"]
    chosen += ["tests/project/test_structure.py"]
    options = ["-k", "mean_pooling", "-vv", "-W", "ignore", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *chosen],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    for file in chosen:
        assert re.search(rf"{file}::\S+ PASSED", done.stdout), file
