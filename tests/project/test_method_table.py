"""A model is three files and a line in docs/METHODS.md that the recipes themselves can check."""

import re
from pathlib import Path

import pytest

from tests.support.copied_tree import copy_tree, method_files, run_python
from tests.support.methods_table import DOCUMENT, count_of, file_of, rows, table_of
from tests.support.mil_recipes import ALL_NAMES, RECIPES

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_lists_every_recipe_with_its_file_and_parameters():
    table = table_of(DOCUMENT.read_text())
    for name in ALL_NAMES:
        recipe = f"`configs/mil/{name}.yaml`"
        listed = [row for row in table if recipe in row]
        assert len(listed) == 1, f"{recipe}: run `python -m tests.support.methods_table --write`"
        assert f"| `{file_of(name)}` |" in listed[0]
        assert f"{recipe} {count_of(name)}" in listed[0]
    assert count_of(ALL_NAMES[0]) == "78 209"  # of the table that tests/configs checks


def test_every_model_has_a_test_of_its_own_name():
    for name in ALL_NAMES:
        file = Path(file_of(name))
        assert (ROOT / "tests" / file.parent / f"test_{file.stem}.py").is_file(), name


def test_rows_keep_what_the_document_says():
    found = list(rows())
    assert sum(row.count("configs/mil/") for row in found) == len(RECIPES)
    assert all(row.count(" | ") == 4 for row in found)


@pytest.mark.slow
def test_a_model_of_three_files_is_found_by_every_test_of_models(tmp_path):
    written = method_files()
    assert len(written) == 3
    copy_tree(tmp_path, written)
    chosen = ["tests/models/mil/test_mean_pooling.py", "tests/models/mil/test_every_model.py"]
    chosen += ["tests/models/mil/test_every_model_learns.py", "tests/configs/test_configs.py"]
    chosen += ["tests/project/test_structure.py"]  # folder by folder
    options = [
        "-k",
        "mean_pooling or test_sizes_and_docstrings",
        "-vv",
        "-W",
        "ignore",
        "-p",
        "no:cacheprovider",
    ]
    done = run_python(tmp_path, "-m", "pytest", *options, *chosen)
    assert done.returncode == 0, done.stdout[-3000:]
    for file in chosen:
        assert re.search(rf"{file}::\S+ PASSED", done.stdout), file
