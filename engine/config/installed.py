"""The recipes that come with this code, which commands find from any working directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
BASE_CONFIG = CONFIGS / "_base" / "trainer.yaml"


def find_recipes(words: Sequence[str]) -> list[str]:
    """Return a command line in which our recipes have paths that exist.

    A path such as ``configs/mil/abmil.yaml`` that does not exist in the working directory becomes
    that of the recipe of this name that is installed (A343); any other word stays.
    """
    return [_found(word) for word in words]


def _found(word: str) -> str:
    flag, equals, value = word.rpartition("=")
    path = Path(value)
    ours = path.parts[:1] == (CONFIGS.name,) and path.suffix in (".yaml", ".yml")
    if ours and not path.exists() and (ROOT / path).is_file():
        return f"{flag}{equals}{ROOT / path}"
    return word


def recipes_place() -> str:
    """Return where the recipes are, for messages: ``configs/``, or its path from elsewhere."""
    here = Path(CONFIGS.name)
    return f"{here if (here / '_base').is_dir() else CONFIGS}/"


def base_config() -> Path:
    """Return the file of values that every run of `train.py` starts from.

    Raises:
        ValueError: the file is missing. Without it a run would silently have other values.
    """
    if not BASE_CONFIG.is_file():
        raise ValueError(
            f"{BASE_CONFIG} is missing, so this copy of segmil is incomplete; install it again, or "
            "restore the file in the clone (git checkout configs)"
        )
    return BASE_CONFIG
