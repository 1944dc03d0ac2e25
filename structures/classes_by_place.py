"""Finding classes by the folder that they lie in, so that a new one needs no list of names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator


def classes_below(package: str) -> Iterator[type]:
    """Yield the classes that the modules below a package define, after importing all of them.

    Classes that a module has only imported are not yielded.

    Args:
        package: dotted name of the package.

    Raises:
        ImportError: a module cannot be imported.
    """
    folders = importlib.import_module(package).__path__
    for info in pkgutil.walk_packages(folders, f"{package}."):
        values = vars(importlib.import_module(info.name)).values()
        found = [v for v in values if isinstance(v, type) and v.__module__ == info.name]
        yield from dict.fromkeys(found)
