"""Hides transformers from torchmetrics in the processes of the tests.

torchmetrics, which Lightning imports, imports transformers wherever it is installed, for metrics of
text. That takes a second of each process; the tests that need transformers import it themselves.
"""

import contextlib
import importlib.metadata
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_found = importlib.metadata.distribution


def _distribution(name):
    if name == "transformers":
        raise importlib.metadata.PackageNotFoundError(name)
    return _found(name)


importlib.metadata.distribution = _distribution

if __name__ == "sitecustomize":  # run the one that this file hides, if there is one
    _place = str(Path(__file__).parent)
    _spec = PathFinder.find_spec(__name__, [folder for folder in sys.path if folder != _place])
    if _spec is not None and _spec.loader is not None:
        with contextlib.suppress(ModuleNotFoundError):  # it may look for another in turn
            _spec.loader.exec_module(module_from_spec(_spec))
