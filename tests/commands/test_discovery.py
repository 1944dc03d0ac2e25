"""A command of `evaluate.py` is one module below `commands/`, found without any list of names."""

import argparse
import ast
import importlib
import shutil
import sys
from pathlib import Path

import pytest

import evaluate
from tests.support.copied_tree import run_programs
from tests.support.layers import FOLDERS, ROOT

COMMANDS = sorted((ROOT / "commands").rglob("[!_]*.py"), key=lambda path: path.stem)
SHARED = sorted((ROOT / "commands").rglob("_*.py"))

NEW_COMMAND = '''"""`evaluate.py count-lines`: a command of somebody else."""

import argparse

from commands._arguments import add_input, add_out

SUMMARY = "count the lines of a file"
TAKES_OVERRIDES = True


def add_arguments(parser):
    add_out(parser)
    add_input(parser, "--file", required=True)


def run(args: argparse.Namespace):
    return {"lines": len(args.file.read_text().splitlines()), "words": args.overrides}
'''


def test_every_module_is_a_command():
    names = sorted(path.stem.replace("_", "-") for path in COMMANDS)
    assert len({*names}) == len(names)  # also not in two folders
    assert list(evaluate.command_modules()) == names
    assert {"coco", "mil-cv", "operating-point", "froc"} <= set(names)


def module_of(path):
    return importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.stem)
def test_a_command_has_a_summary_arguments_and_a_run(path):
    module = module_of(path)
    assert module.SUMMARY.strip() == module.SUMMARY
    assert len(module.SUMMARY.splitlines()) == 1
    assert callable(module.add_arguments)
    assert callable(module.run)


@pytest.mark.parametrize("path", [*COMMANDS, *SHARED], ids=lambda p: p.stem)
def test_help_waits_for_the_standard_library_alone(path):
    tree = ast.parse(path.read_text())
    found = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module)
    for name in found:
        package, _, rest = name.partition(".")
        shared = package == "commands" and rest.rpartition(".")[2].startswith("_")
        assert package in sys.stdlib_module_names or shared


@pytest.mark.parametrize("path", [*COMMANDS, *SHARED], ids=lambda p: p.stem)
def test_modules_share_public_names(path):
    """Also none of a module of another folder that a function imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]


def test_no_file_names_the_commands():
    """Neither the script nor what the commands share knows a command by its name."""
    names = {path.stem.replace("_", "-") for path in COMMANDS}
    for path in [ROOT / "evaluate.py", *SHARED]:
        tree = ast.parse(path.read_text())
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not texts & names


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the tree in which a module has been put into `commands/`."""
    root = tmp_path_factory.mktemp("tree")
    for folder in {"commands", *FOLDERS}:
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(ROOT / "evaluate.py", root)
    (root / "commands" / "count_lines.py").write_text(NEW_COMMAND)
    (root / "commands" / "_helper.py").write_text('"""No command."""\n')
    (root / "commands" / "more").mkdir()
    (root / "commands" / "more" / "__init__.py").write_text('"""A folder of commands."""\n')
    (root / "commands" / "more" / "count_words.py").write_text(NEW_COMMAND)
    return root


@pytest.mark.slow
def test_a_module_put_into_the_folder_is_a_command(extended, tmp_path):
    file, out = tmp_path / "text", tmp_path / "out.json"
    file.write_text("a\nb\n")
    count = ["evaluate", "count-lines", "--file"]
    commands = [
        ["evaluate", "--help"],
        [*count, file, "--data.root", "x", "--out", out],
        [*count, file, "--out", file],
        [*count, tmp_path / "none"],
    ]
    shown, counted, replacing, missing = run_programs(extended, commands)
    assert "count-lines" in shown.stdout
    assert "count the lines of a file" in shown.stdout
    assert "count-words" in shown.stdout  # of a subfolder, which is part of no name
    assert "helper" not in shown.stdout
    assert counted.returncode == 0, counted.stderr
    assert out.read_text() == '{"lines": 2, "words": ["--data.root", "x"]}\n'
    assert replacing.returncode == 2
    assert f"--out {file} is the file of --file and would replace it" in replacing.stderr
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.stem)
def test_every_path_is_an_input_or_an_output(path):
    """So that `check_outputs` guards it."""
    parser = argparse.ArgumentParser()
    module_of(path).add_arguments(parser)
    guarded = {*(parser.get_default("inputs") or ()), *(parser.get_default("outputs") or ())}
    paths = {action.dest for action in parser._actions if action.type is Path}
    assert "out" in paths
    assert paths <= guarded
