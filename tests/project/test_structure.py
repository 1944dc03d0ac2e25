"""The rules of docs/ARCHITECTURE.md that can be read off the source text."""

import ast
import functools
import importlib
import inspect
import subprocess
import sys

import pytest

from tests.support.layers import FOLDERS, ROOT, SCRIPTS, earlier

SOURCES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
ALL_SCRIPTS = [ROOT / name for name in SCRIPTS]
# Method folders export the public classes of their method.
_METHODS = (
    "deformable_detr", "eomt", "mask2former", "mask_rcnn", "oln", "segprompt", "sword", "yolo"
)  # fmt: skip
EXPORTING = {"structures", "segmil", *(f"models/seg/{method}" for method in _METHODS)}
EXPORTING |= {f"models/mil/{method}" for method in ("ins", "mhim")}

# Libraries that a folder may not import, at any depth, also inside functions.
FORBIDDEN = {
    "structures": {"pytorch_lightning", "torchvision", "timm", "pycocotools", "wandb"},
    "optim": {"pytorch_lightning", "wandb"},
    "formats": {"pytorch_lightning", "wandb", "albumentations"},
    "models": {"pytorch_lightning", "wandb", "yaml", "pycocotools", "albumentations", "hotcoco"},
    "datamodules": {"wandb"},
    "evaluation": {"pytorch_lightning", "wandb"},
    "lightning_modules": {"wandb", "albumentations"},
    "loggers": {"albumentations"},
    "callbacks": {"wandb", "albumentations"},
    "engine": {"wandb", "albumentations"},
    "commands": {"wandb", "albumentations"},
    "segmil": {"wandb", "albumentations"},
}
# Folders of ours that a folder of an earlier layer may not know either.
APART = {
    "callbacks": {"models", "datamodules", "lightning_modules"},
    "lightning_modules": {"datamodules"},
    "loggers": {"models", "datamodules"},
}
# Packages of the same layer that a folder may import all the same.
BESIDE = {"models": ("formats.weights",)}
# Too slow to load for everybody: only inside the functions that need them.
LAZY = {"albumentations", "wandb", "matplotlib", "hotcoco", "pycocotools", "sklearn", "timm"}


def imports(tree, but=()):
    """Names of the packages that are imported, but for modules of these."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from [] if node.module.startswith(but) else [node.module.split(".")[0]]


def stem_of(script):
    return script.removesuffix(".py")


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def sources(folder):
    """The modules of a folder; each failure names its module."""
    found = [path for path in SOURCES if path.is_relative_to(ROOT / folder)]
    assert found
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_dependency_direction(folder):
    allowed = {folder} | earlier(folder) - APART.get(folder, set())
    for path in sources(folder):
        found = set(imports(parsed(path), BESIDE.get(folder, ())))
        assert not found & FORBIDDEN[folder], path
        assert found & (set(FOLDERS) | set(map(stem_of, SCRIPTS))) <= allowed, path


@pytest.mark.parametrize("folder", FOLDERS)
def test_slow_libraries_are_imported_where_used(folder):
    for path in sources(folder):
        top = [n for n in parsed(path).body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not set(imports(ast.Module(body=top, type_ignores=[]))) & LAZY, path


@pytest.mark.parametrize("folder", [*FOLDERS, "scripts"])
def test_sizes_and_docstrings(folder):
    for path in ALL_SCRIPTS if folder == "scripts" else sources(folder):
        tree = parsed(path)
        assert len(path.read_text().splitlines()) <= 400, path
        assert ast.get_docstring(tree), path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno
                assert length < 60, f"{path}: {node.name} is longer than 60 lines"
        for node in public_definitions(tree):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"


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


def packages():
    return sorted({path.parent for path in SOURCES})


@pytest.mark.parametrize("folder", packages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_init_files_hold_a_docstring_alone(folder):
    """Except in `structures` and in the folders of one method, which export its classes."""
    tree = parsed(folder / "__init__.py")
    assert ast.get_docstring(tree)
    if str(folder.relative_to(ROOT)) in EXPORTING:
        module = importlib.import_module(".".join(folder.relative_to(ROOT).parts))
        values = [getattr(module, name) for name in module.__all__]
        assert all(v.__doc__ for v in values if isinstance(v, type) or inspect.isfunction(v))
    else:
        assert len(tree.body) == 1


@pytest.mark.parametrize("folder", packages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_folder_has_at_most_twenty_modules(folder):
    if folder.name != "commands":
        assert len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) <= 20


def test_the_root_holds_three_scripts():
    assert {p.name for p in ROOT.glob("*.py")} == set(SCRIPTS)


def test_no_model_names_a_device():
    """What moves tensors is the trainer; a network works where its inputs are."""
    for path in sources("models"):
        nodes = list(ast.walk(parsed(path)))
        calls = [n.func for n in nodes if isinstance(n, ast.Call)]
        assert "cuda" not in [n.attr for n in calls if isinstance(n, ast.Attribute)], path
        named = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        allowed = {"mps"} if path.stem == "precision" else set()  # the device without float64
        assert not ({"cuda", "cuda:0", "mps"} - allowed) & named, path
