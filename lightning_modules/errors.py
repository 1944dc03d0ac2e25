"""Finding, in a chain of exceptions, the one message that helps the user."""

from __future__ import annotations

import traceback
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_OURS = ("structures", "models", "datamodules", "evaluation", "lightning_modules", "callbacks")


def user_message(error: BaseException) -> str:
    """Return the message of the first ValueError that our own code raised, else the last one.

    A wrong argument of a model or a datamodule reaches the command line wrapped in the parser's
    account of everything that it tried.
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)
    for found in reversed(chain):
        frames = traceback.extract_tb(found.__traceback__)
        if isinstance(found, ValueError) and frames and _is_ours(frames[-1].filename):
            return str(found)
    return str(error)


def _is_ours(filename: str) -> bool:
    path = Path(filename).resolve()
    return path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS
