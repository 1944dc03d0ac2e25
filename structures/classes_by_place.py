"""Discovery of the classes in a package, so that a new class needs no registration."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator


def classes_below(package: str) -> Iterator[type]:
    """Yield the classes that the modules of a package define, after importing the modules.

    Classes that a module only imports are not yielded.

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
