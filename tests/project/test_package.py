"""What an installation contains, and what messages advise."""

import ast
import fnmatch
import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from engine.config.errors import _OURS
from tests.support.layers import FOLDERS, ROOT, SCRIPTS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def included(folder):
    """Whether the patterns of setuptools find a folder as a package."""
    name = ".".join(folder.relative_to(ROOT).parts)
    patterns = SETUPTOOLS["packages"]["find"]["include"]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def test_every_package_and_every_recipe_is_installed():
    folders = {p.parent for top in FOLDERS for p in (ROOT / top).rglob("*.py")}
    files = [p for p in (ROOT / "configs").rglob("*") if p.is_file()]
    assert ROOT / "configs/_base/trainer.yaml" in files
    missing = [f for f in folders | {p.parent for p in files} if not included(f)]
    assert not missing
    patterns = SETUPTOOLS["package-data"]["*"]
    assert all(any(fnmatch.fnmatch(p.name, pattern) for pattern in patterns) for p in files)
    assert sorted(f"{name}.py" for name in SETUPTOOLS["py-modules"]) == sorted(SCRIPTS)


def test_nothing_else_is_installed():
    for folder in ("tests", "benchmarks", "docs", "runs"):
        assert not included(ROOT / folder)


def test_lists_of_our_packages_are_complete():
    assert set(PROJECT["tool"]["mypy"]["packages"]) == set(FOLDERS)
    assert set(_OURS) == set(FOLDERS) - {"segmil"}


@pytest.mark.parametrize("name", ["segmil-train", "segmil-evaluate"])
def test_entry_points_run_the_scripts(name, monkeypatch, capsys):
    module, _, function = PROJECT["project"]["scripts"][name].partition(":")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        getattr(importlib.import_module(module), function)()
    assert stopped.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_the_package_for_other_programs_is_thin():
    sources = [p.read_text().splitlines() for p in (ROOT / "segmil").rglob("*.py")]
    assert sum(map(len, sources)) <= 150


def texts():
    """Every string of our code that is no docstring, with its place."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text())
            documents = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and isinstance(node.body[0], ast.Expr)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):  # a placeholder is written as {}
                    parts = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
                    yield f"{path.name}:{node.lineno}", "".join(parts)
                elif isinstance(node, ast.Constant) and id(node) not in documents:
                    yield f"{path.name}:{node.lineno}", str(node.value)


def test_messages_advise_commands_and_name_files_that_exist():
    seen = 0
    for place, text in texts():
        for script in re.findall(r"((?:\w+ )?(?:train|evaluate|quickstart)\.py) [a-z]", text):
            assert script.startswith("python "), f"{place}: {script}: write python {script}"
            seen += 1
        for file in re.findall(r"\b((?:configs|docs)/[\w/]+\.\w+)", text):
            assert (ROOT / file).is_file(), f"{place}: {file}"
            seen += 1
        assert "pip install 'segmil" not in text, f"{place}: it is not in a package index"
    assert seen > 8


def test_the_base_recipe_is_plain():
    assert yaml.safe_load(Path(ROOT / "configs/_base/trainer.yaml").read_text())["trainer"]
