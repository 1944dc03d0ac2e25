"""Provenance of a run in addition to its configuration: code, data and packages."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.report.record import package_versions
from formats.files import atomic_write

PROVENANCE_FILE = "provenance.json"
_SECONDS = 10.0
_ROOT = Path(__file__).resolve().parents[1]


def provenance(command: Sequence[str], data_hash: str | None) -> dict[str, Any]:
    """Return the provenance record of a run.

    Args:
        command: words of the command line.
        data_hash: `datamodules.fingerprint` of the data, None if it is unknown.

    Returns:
        ``command``, ``data_hash``, ``git_commit`` and ``git_dirty`` of this code (None if it is not
        a git checkout or git fails; only changes of tracked files count as dirty), ``python`` and
        ``versions`` of the main packages.
    """
    cloned = (_ROOT / ".git").exists()  # installed code may lie in a repository of the user's
    commit = _git("rev-parse", "HEAD") if cloned else None
    changes = None if commit is None else _git("status", "--porcelain", "--untracked-files=no")
    return {
        "command": " ".join(command),
        "data_hash": data_hash,
        "git_commit": commit,
        "git_dirty": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "versions": package_versions(),
    }


def write_provenance(folder: Path, record: dict[str, Any]) -> None:
    """Write the record as ``provenance.json`` into the run folder."""
    with atomic_write(folder / PROVENANCE_FILE) as file:
        file.write(json.dumps(record, indent=1).encode())


def _git(*words: str) -> str | None:
    """Return the output of git in the folder of this code, None if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *words],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
