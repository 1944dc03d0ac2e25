"""Check, with the standard library alone, that a script runs in segmil's environment."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from engine.config.installed import ROOT

NEEDED = ("torch", "pytorch_lightning", "jsonargparse", "yaml", "numpy")
_OLDEST = (3, 11)


def environment_fault(*, packages: bool = True) -> str | None:
    """Return an error message if this Python is too old or lacks our packages, else None.

    Args:
        packages: whether packages are needed; ``--help`` of a script needs none.
    """
    missing = [name for name in NEEDED if packages and find_spec(name) is None]
    if sys.version_info >= _OLDEST and not missing:
        return None
    version = ".".join(map(str, sys.version_info[:2]))
    lacks = f"lacks {', '.join(missing)}" if missing else "is older than 3.11"
    return (
        f"this Python ({sys.executable}, {version}) {lacks}; run `make setup` in {ROOT} once, then "
        "`source .venv/bin/activate` in every new terminal, and start the command again"
    )
