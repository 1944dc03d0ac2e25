"""`python -m tests.perturb [FILE ...] [--all]`: change the models' formulas; a test must fail.

One sign, one factor and one axis of each file that only models use (``--all``: every one) is
changed in memory, never on the disk, and the file's tests run on the change in a process of its
own: first the tests named after the file, then those of every model for the recipes that use it.
A line a change names the test that caught it; a change that none catches survives, and the exit
code is 1.
"""

import argparse
import ast
import contextlib
import importlib.abc
import importlib.util
import json
import os
import pickle
import select
import signal
import sys
import time
from functools import cache
from pathlib import Path

from tests.perturb_sites import changes, chosen

ROOT = Path(__file__).resolve().parents[1]
EVERY_MODEL = "tests/models/mil/test_every_model.py"
FOR_WORKERS = "SEGMIL_CHANGED_FILE"  # where processes that a test starts find the change
NOT_MODELS = {"__init__.py", "protocol.py", "lenet.py"}
# Changes that compute the same; (file, expression) -> why.
SAME: dict[tuple[str, str], str] = {
    ("models/mil/acmil.py", "segment_weighted_sum(attention, attention, offsets)"): (
        "a cosine has no scale"
    ),
    ("models/mil/aem.py", "math.pi * progress"): "the cosine is even",
    ("models/mil/mhim/masking.py", "math.pi * progress"): "the cosine is even",
    ("models/ops/masks/instances.py", "segment_sum(kept, offsets)"): "twice nothing is nothing",
    ("models/ops/bags/ragged.py", "64"): "a matter of speed",
    ("models/ops/bags/ragged.py", "16"): "a matter of speed",
    ("models/ops/bags/ragged.py", "segments * columns"): "a matter of speed",
}


@cache
def imported(file):
    """Return the files of ours that a file imports."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    places = (name.replace(".", "/") for name in names)
    paths = (f"{place}{end}" for place in places for end in (".py", "/__init__.py"))
    return frozenset(p for p in paths if (ROOT / p).is_file())


def reached(files):
    """Return the files that are imported, directly or not."""
    found, new = set(), set(files)
    while new:
        found |= new
        new = {p for f in new for p in imported(f)} - found
    return found


def source_files(folder):
    return [str(p.relative_to(ROOT)) for p in sorted((ROOT / folder).rglob("*.py"))]


def model_files():
    """Return the models, and what only they use of ops, losses and training protocols."""
    learners = [f for f in source_files("models/mil") if Path(f).name not in NOT_MODELS]
    others = reached(source_files("models/seg"))
    shared = [f for folder in ("models/ops", "models/losses") for f in source_files(folder)]
    own = reached(learners)
    return [*learners, *(f for f in shared if f in own and f not in others)]


def tests_of(file):
    """Return the test files that are named after a file."""
    folder, stem = Path("tests") / Path(file).parent, Path(file).stem
    found = [folder / f"test_{stem}.py", *(ROOT / folder).glob(f"test_{stem}_*.py")]
    found += [*(ROOT / "tests/processes").glob(f"test_{stem}.py")]
    return [str(Path(p).relative_to(ROOT) if Path(p).is_absolute() else p)
            for p in dict.fromkeys(found) if (ROOT / p).is_file()]  # fmt: skip


def recipes_of(file):
    """Return the recipes whose classes lie in a file or in one that imports it."""
    from tests.support.mil_recipes import NAMES, class_paths, settings

    def uses(name):
        files = set()
        for path in class_paths(settings(name)["model"]):
            module, _, attribute = path.rpartition(".")
            if module.split(".")[0] in ("models", "lightning_modules"):
                origin = getattr(importlib.import_module(module), attribute).__module__
                files.add(origin.replace(".", "/") + ".py")
        return file in reached(files)

    return [name for name in NAMES if uses(name)]


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a changed syntax tree."""

    def __init__(self, file, tree):
        self.name, self.path, self.tree = file[:-3].replace("/", "."), ROOT / file, tree

    def find_spec(self, fullname, path=None, target=None):
        if fullname == self.name:
            return importlib.util.spec_from_file_location(fullname, self.path, loader=self)
        return None

    def exec_module(self, module):
        exec(compile(self.tree, str(self.path), "exec"), vars(module))


def install(change):
    """Let this process import a file as (file, source) says."""
    file, source = change
    sys.meta_path.insert(0, Changed(file, ast.parse(source)))


class FirstFailure:
    """Keeps the tests of some recipes and remembers the first test that failed."""

    def __init__(self, recipes=None):
        self.recipes, self.name = recipes, None

    def pytest_collection_modifyitems(self, config, items):
        if self.recipes is not None:
            own = [i for i in items if i.callspec.params["name"] in self.recipes]
            items[:] = own

    def _remember(self, report):
        if report.failed and self.name is None:
            self.name = report.nodeid

    pytest_runtest_logreport = pytest_collectreport = _remember


def run_tests(file, tree):
    """Return the name of the first test that fails with a file as ``tree``, or None."""
    import pytest

    if tree is not None:
        sys.meta_path.insert(0, Changed(file, tree))
        os.environ[FOR_WORKERS] = json.dumps([file, ast.unparse(tree)])
    options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-W", "ignore"]
    own = tests_of(file)
    if own:
        plugin = FirstFailure()
        if pytest.main([*options, *own], plugins=[plugin]) not in (0, 5):
            return plugin.name or "the tests do not start"
    try:
        plugin = FirstFailure(recipes_of(file))
    except Exception as error:  # a changed file need not even be imported
        return f"import: {error!r}"
    if plugin.recipes and pytest.main([*options, EVERY_MODEL], plugins=[plugin]) not in (0, 5):
        return plugin.name or "the tests do not start"
    return None


def apart(file, tree, limit):
    """Run the tests in a fork, which has torch already; return what caught the change, or None."""
    receiver, sender = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(ROOT)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            caught = run_tests(file, tree)
        except BaseException as error:
            caught = f"error: {error!r}"
        os.write(sender, pickle.dumps(caught))
        os._exit(0)
    os.close(sender)
    ready, _, _ = select.select([receiver], [], [], limit)
    with os.fdopen(receiver, "rb") as stream:
        if not ready:
            os.killpg(child, signal.SIGKILL)
        answer = stream.read()
    os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # processes that a test has left
    return pickle.loads(answer) if answer else f"no answer within {limit:.0f} s"


def preload():
    """Import what tests need and no change touches, so that forks need not."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    sys.dont_write_bytecode = True
    names = "torch torchvision pytorch_lightning jsonargparse yaml h5py hypothesis pytest scipy "
    names += "safetensors.numpy sklearn.metrics timm numpy torchmil.models torchmil.nn"
    for name in names.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def check(file, everything, limit, write):
    """Try a file's changes; return those that survive."""
    source = (ROOT / file).read_text()
    found = changes(source)
    wanted = found if everything else chosen(found)
    known = [c for c in wanted if (file, c.before) in SAME]
    wanted = [c for c in wanted if c not in known]
    start = time.perf_counter()
    unchanged = apart(file, None, 4 * limit)
    limit = max(limit, 5 * (time.perf_counter() - start))
    if unchanged is not None:
        write(f"{file}: fails unchanged: {unchanged}")
        return [f"{file}: fails unchanged"]
    survivors = []
    for change in wanted:
        start = time.perf_counter()
        caught = apart(file, change.tree, limit)
        seconds = time.perf_counter() - start
        write(f"{file}:{change}   [{caught or 'SURVIVED'}, {seconds:.1f} s]")
        if caught is None:
            survivors.append(f"{file}:{change}")
    kinds = {c.kind for c in found}
    missing = [k for k in ("sign", "factor", "axis") if k not in kinds]
    if missing:
        write(f"{file}: holds no {' and no '.join(missing)}")
    return survivors


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments, write=say):
    """Return the exit code: 0 where every change was caught."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("files", nargs="*", help="default: every model's file")
    parser.add_argument("--all", action="store_true", help="every sign, factor and axis")
    parser.add_argument("--limit", type=float, default=60.0, help="least seconds for a change")
    args = parser.parse_args(arguments)
    files = [str(Path(f).resolve().relative_to(ROOT)) for f in args.files] or model_files()
    preload()
    survivors = [s for file in files for s in check(file, args.all, args.limit, write)]
    write("\n".join(["survivors:", *survivors]) if survivors else "no survivor")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
