"""What the evaluation scripts show: tables for people, JSON, progress.

Imports nothing heavy, so that help answers immediately.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def show(title: str, columns: list[str], rows: Any, width: int = 80) -> None:
    """Print a title and a table; a wide one is not folded where the output is no terminal."""
    from rich.console import Console

    from evaluation.report.record import table

    console = Console(markup=False)
    least = 80 if console.is_terminal else width
    console = Console(width=max(least, console.width), markup=False)
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table(columns, rows))


def write(path: Path | None, record: dict[str, Any]) -> None:
    """Write a record as JSON and say where, if a path is given."""
    if path is not None:
        from formats.files import write_json

        write_json(path, record)
        print(f"written: {path}")


def progress(what: str, every: int = 1) -> Any:
    """Return what tells the standard error how much of a long task is done."""

    def tell(done: int, total: int) -> None:
        if done % every == 0 or done == total:
            print(f"{done} of {total} {what}", file=sys.stderr, flush=True)

    return tell


def report_skipped(problems: Any) -> dict[str, int]:
    """Print how many problems each file had that were skipped, and return the counts."""
    counts: dict[str, int] = {}
    for problem in problems:
        counts[str(problem.file)] = counts.get(str(problem.file), 0) + 1
    for file, count in counts.items():
        print(f"skipped: {count} problem(s) of {file}")
    return counts
