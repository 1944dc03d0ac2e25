"""Loading a library without the optional packages that it loads for features nobody uses here.

Lightning loads torchmetrics, which loads matplotlib; timm loads wandb. Each costs a person who
waits for ``--help`` half a second, and wandb does more than take time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError
from typing import Any


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Make packages look as if they were not installed while the block runs.

    For blocks that only import a library. What the library concludes stays: torchmetrics' own
    ``plot`` will ask for matplotlib. Packages that are loaded already are found as ever.

    Args:
        packages: top-level names, the same for module and distribution.

    >>> with without("wave"):
    ...     import wave
    Traceback (most recent call last):
    ModuleNotFoundError: import of wave halted; None in sys.modules
    """
    loaded: dict[str, Any] = sys.modules
    absent = frozenset(packages) - loaded.keys()
    finder = _Absent(frozenset(packages))
    # None makes `import` fail and `importlib.util.find_spec` find nothing.
    loaded.update(dict.fromkeys(absent))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in absent:
            loaded.pop(name, None)


class _Absent(DistributionFinder, MetaPathFinder):
    """Answers for all finders that a package's distribution is not there."""

    def __init__(self, packages: frozenset[str]) -> None:
        self.packages = packages

    def find_distributions(
        self, context: DistributionFinder.Context | None = None
    ) -> Iterator[Distribution]:
        """Refuse the packages' metadata; others are for the next finder."""
        if context is not None and context.name in self.packages:
            raise PackageNotFoundError(context.name)
        return iter(())
