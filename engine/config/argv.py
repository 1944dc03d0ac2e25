"""Words of the command line that are read before the parser sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def _take(args: list[str], flag: str) -> tuple[list[str], str | None]:
    """Remove ``flag VALUE`` or ``flag=VALUE`` and return the value."""
    for i, word in enumerate(args):
        if word == flag and i + 1 < len(args):
            return args[:i] + args[i + 2 :], args[i + 1]
        if word.startswith(f"{flag}="):
            return args[:i] + args[i + 1 :], word.split("=", 1)[1]
    return args, None


def config_files(arguments: Sequence[str]) -> list[Path]:
    """Return the files that a command line names by ``--config``."""
    files = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if word in ("--config", "-c"):
            files.append(Path(following))
        elif word.startswith("--config="):
            files.append(Path(word.split("=", 1)[1]))
    return files
