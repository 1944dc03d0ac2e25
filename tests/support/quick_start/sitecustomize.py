"""Hides packages from torchmetrics in the processes of the tests.

torchmetrics, which Lightning imports, imports these wherever they are installed, for metrics that
nobody computes here. That takes two or three seconds of each process; what needs them imports them
itself.
"""

import contextlib
import importlib.metadata
import importlib.util
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

HIDDEN = {"matplotlib", "scipy", "torchvision", "transformers"}
DEPTH = 12  # frames between an import of torchmetrics and the question for a package
_distribution, _find_spec = importlib.metadata.distribution, importlib.util.find_spec


def distribution(name):
    if name in HIDDEN and _asked_by_torchmetrics():
        raise importlib.metadata.PackageNotFoundError(name)
    return _distribution(name)


def find_spec(name, package=None):
    if name in HIDDEN and _asked_by_torchmetrics():
        return None
    return _find_spec(name, package)


def _asked_by_torchmetrics():
    frame = sys._getframe()
    for _ in range(DEPTH):
        frame = frame.f_back
        if frame is None:
            return False
        if frame.f_globals.get("__name__", "").startswith("torchmetrics"):
            return True
    return False


importlib.metadata.distribution, importlib.util.find_spec = distribution, find_spec

if __name__ == "sitecustomize":  # run the one that this file hides, if there is one
    _place = str(Path(__file__).parent)
    _spec = PathFinder.find_spec(__name__, [folder for folder in sys.path if folder != _place])
    if _spec is not None and _spec.loader is not None:
        with contextlib.suppress(ModuleNotFoundError):  # it may look for another in turn
            _spec.loader.exec_module(module_from_spec(_spec))
