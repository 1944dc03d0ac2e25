"""Output of the evaluation commands: tables, JSON and progress.

The module has no slow imports, which keeps ``--help`` fast.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def show(title: str, columns: list[str], rows: Any, width: int = 80) -> None:
    """Print a title and a table; ``width`` is its least width if the output is not a terminal."""
    from rich.console import Console

    from evaluation.report.record import table

    console = Console(markup=False)
    least = 80 if console.is_terminal else width
    console = Console(width=max(least, console.width), markup=False)
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table(columns, rows))


def write(path: Path | None, record: dict[str, Any]) -> None:
    """Write a record as JSON and print the path, if a path is given."""
    if path is not None:
        from formats.files import write_json

        write_json(path, record)
        print(f"written: {path}")


def progress(what: str, every: int = 1) -> Any:
    """Return a callback that prints the progress of a long task to stderr."""

    def report(done: int, total: int) -> None:
        if done % every == 0 or done == total:
            print(f"{done} of {total} {what}", file=sys.stderr, flush=True)

    return report


def report_skipped(problems: Any) -> dict[str, int]:
    """Print the number of skipped problems of each file and return the counts."""
    counts: dict[str, int] = {}
    for problem in problems:
        counts[str(problem.file)] = counts.get(str(problem.file), 0) + 1
    for file, count in counts.items():
        print(f"skipped: {count} problem(s) of {file}")
    return counts
