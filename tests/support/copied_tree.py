"""A copy of the source tree, into which tests write new files and nothing else."""

import os
import re
import shutil
import subprocess
import sys

from tests.support.layers import FOLDERS, ROOT
from tests.support.methods_table import DOCUMENT

EXAMPLE = {
    "python": ("models/mil/{}.py", "tests/models/mil/test_{}.py"),
    "yaml": ("configs/mil/{}.yaml",),
}


def method_files():
    """Return the files of the worked example of docs/METHODS.md, by path."""
    text = DOCUMENT.read_text().partition("## Adding a method")[2]
    files = {}
    for language, paths in EXAMPLE.items():
        blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
        files |= dict(zip([p.format("mean_pooling") for p in paths], blocks, strict=True))
    return files


def copy_tree(target, new_files):
    """Copy the repository, tests and documents included, and add files that it does not have."""
    for folder in (*FOLDERS, "tests", "configs", "docs"):
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / folder, target / folder, ignore=ignored)
    for script in [*ROOT.glob("*.py"), ROOT / "pyproject.toml", ROOT / "README.md"]:
        shutil.copy(script, target)
    for path, content in new_files.items():
        assert not (target / path).exists(), f"{path} is no new file"
        (target / path).write_text(content)


def run_python(tree, *words):
    """Run Python with some words in a copied tree; return what came of it, with its output."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=tree,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
