"""Selection of the message to report from a chain of exceptions."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

_ROOT = Path(__file__).resolve().parents[2]
_OURS = (
    "structures", "optim", "formats", "models", "datamodules", "evaluation", "lightning_modules",
    "loggers", "callbacks", "engine", "commands",
)  # fmt: skip
_PARENT = os.getppid()  # read early: by the time of an error it may have ended
_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.")
_RAISED = re.compile(r"^[\w.]*(?:Error|Problems): ", re.MULTILINE)


def user_message(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """Return the message of the ValueError that our own code raised, else the last one.

    The parser wraps the error of a wrong model or datamodule argument in a list of all the types
    that it tried, and a data loader wraps the error of a worker process in a traceback.

    Args:
        error: the exception that ended the command.
        arguments: the command line; it is searched for the source of a wrong configuration key
            or value.
    """
    own = own_error(error)
    if own is not None:
        return str(own)
    from engine.config.explain import explain

    text = str(error)
    if _WORKER.match(text) and (raised := list(_RAISED.finditer(text))):
        return text[raised[-1].end() :].strip()
    return explain(text, arguments)


def report_once(message: str, patience: float = 8.0) -> None:
    """Write a message to stderr from one process of the job.

    Most errors stop every process, and then only rank 0 reports. The other processes wait until
    their parent (rank 0 or the launcher) ends. If it does not end within ``patience`` seconds, the
    error occurred on this process only, and the process reports it itself. Without the wait, the
    launcher would kill rank 0 before it could return its exit code.

    Args:
        message: the text to write.
        patience: seconds that processes other than rank 0 wait.
    """
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        end = time.monotonic() + patience
        while os.getppid() == _PARENT and time.monotonic() < end:
            time.sleep(0.05)
        if os.getppid() != _PARENT:
            return
    sys.stderr.write(message)


def own_error(error: BaseException) -> ValueError | None:
    """Return the innermost ValueError of a chain that our own code raised, or None.

    If our own code raised it from another ValueError to add information, the outer one is returned.
    """
    found: ValueError | None = None
    for current in reversed(_chain(error)):
        frames = traceback.extract_tb(current.__traceback__)
        own = isinstance(current, ValueError) and frames and _is_ours(frames[-1].filename)
        if isinstance(current, ValueError) and own and found in (None, current.__cause__):
            found = current
    return found


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception followed by its causes and contexts, outermost first."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        hidden = current.__suppress_context__
        current = current.__cause__ or (None if hidden else current.__context__)
    return chain


def _is_ours(filename: str) -> bool:
    path = Path(filename).resolve()
    return path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS
