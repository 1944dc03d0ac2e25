"""Hides transformers from torchmetrics in the processes of the tests.

torchmetrics, which Lightning imports, imports transformers wherever it is installed, for metrics of
text. That takes a second of each process; the tests that need transformers import it themselves.
"""

import importlib.metadata
import runpy
import sys
from pathlib import Path

_found = importlib.metadata.distribution


def _distribution(name):
    if name == "transformers":
        raise importlib.metadata.PackageNotFoundError(name)
    return _found(name)


importlib.metadata.distribution = _distribution

if __name__ == "sitecustomize":  # run the one that this file hides, if there is one
    for _folder in sys.path:
        _other = Path(_folder) / "sitecustomize.py"
        if _other.is_file() and not _other.samefile(__file__):
            runpy.run_path(str(_other))
            break
