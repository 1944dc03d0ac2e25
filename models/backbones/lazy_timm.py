"""timm, loaded when the first model of it is built."""

from __future__ import annotations

from typing import Any

from structures.lean_import import without


def load_timm() -> Any:
    """Return the module ``timm``.

    It takes a second; and it loads wandb only to write summaries that this project does not use.
    """
    with without("wandb"):
        import timm
    return timm
