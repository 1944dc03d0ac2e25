"""Lazy import of timm, which takes a second and is deferred until the first timm model is built."""

from __future__ import annotations

import sys
from typing import Any


def load_timm() -> Any:
    """Return the module ``timm``, loaded as if wandb were not installed.

    timm loads wandb only to write summaries that this project does not use.
    """
    modules: dict[str, Any] = sys.modules
    absent = "wandb" not in modules
    if absent:
        modules["wandb"] = None  # makes its import fail
    try:
        import timm
    finally:
        if absent:
            del modules["wandb"]
    return timm
