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


def report_bad_data(problems: Any) -> dict[str, dict[str, int]]:
    """Print the number of skipped and of repaired problems of each file and return the counts.

    Returns:
        file -> count under ``skipped``, and under ``repaired`` if something was repaired.
    """
    counts: dict[str, dict[str, int]] = {"skipped": {}}
    for problem in problems:
        files = counts.setdefault("repaired" if problem.repaired else "skipped", {})
        files[str(problem.file)] = files.get(str(problem.file), 0) + 1
    for word, files in counts.items():
        for file, count in files.items():
            print(f"{word}: {count} problem(s) of {file}")
    return counts
