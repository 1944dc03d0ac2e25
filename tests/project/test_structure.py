"""The rules of docs/ARCHITECTURE.md that can be read off the source text."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("structures", "models", "datamodules", "evaluation", "lightning_modules", "callbacks")
SOURCES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
SCRIPTS = [ROOT / "train.py", ROOT / "quickstart.py", *sorted(ROOT.glob("evaluate*.py"))]

# What a folder may not import, at any depth, also inside functions.
FORBIDDEN = {
    "structures": {
        *FOLDERS[1:],
        "pytorch_lightning",
        "torchvision",
        "timm",
        "pycocotools",
        "wandb",
    },
    "models": {
        "datamodules",
        "evaluation",
        "lightning_modules",
        "callbacks",
        "pytorch_lightning",
        "wandb",
        "yaml",
        "pycocotools",
        "albumentations",
        "hotcoco",
    },
    "datamodules": {"models", "evaluation", "lightning_modules", "callbacks", "wandb"},
    "evaluation": {
        "models",
        "datamodules",
        "lightning_modules",
        "callbacks",
        "pytorch_lightning",
        "wandb",
    },
    "lightning_modules": {"wandb", "albumentations"},
    "callbacks": {"models", "datamodules", "lightning_modules"},
}
# Too slow to load for everybody: only inside the functions that need them.
LAZY = {"albumentations", "wandb", "matplotlib", "hotcoco", "pycocotools", "sklearn", "timm"}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


def parsed(path):
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_dependency_direction(path):
    folder = path.relative_to(ROOT).parts[0]
    assert not set(imports(parsed(path))) & FORBIDDEN[folder]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_slow_libraries_are_imported_where_used(path):
    top = [node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not set(imports(ast.Module(body=top, type_ignores=[]))) & LAZY


@pytest.mark.parametrize("path", SOURCES + SCRIPTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes_and_docstrings(path):
    tree = parsed(path)
    assert len(path.read_text().splitlines()) <= 400
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is longer than 60 lines"
    for node in public_definitions(tree):
        assert ast.get_docstring(node), f"{node.name} has no docstring"


def public_definitions(tree):
    """Functions and classes at module level and methods of public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node)


def test_no_init_file_under_tests_hides_a_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_answers_before_the_heavy_imports(script):
    code = (
        f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'timm', 'wandb', 'albumentations'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "usage" in done.stdout
    assert "LOADED []" in done.stdout


def test_every_public_name_of_a_folder_exists():
    for folder in FOLDERS:
        module = importlib.import_module(folder)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if isinstance(value, type) or inspect.isfunction(value):
                assert value.__doc__


@pytest.mark.parametrize("path", sorted((ROOT / "models").rglob("*.py")), ids=lambda p: p.stem)
def test_no_model_names_a_device(path):
    """What moves tensors is the trainer; a network works where its inputs are."""
    tree = ast.parse(path.read_text())
    calls = [
        n.func.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
    ]
    named = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    assert "cuda" not in calls
    allowed = {"mps"} if path.stem == "precision" else set()  # the device without float64
    assert not ({"cuda", "cuda:0", "mps"} - allowed) & {v for v in named if isinstance(v, str)}
